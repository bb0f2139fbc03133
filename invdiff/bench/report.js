"use strict";

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/* Tables: a click on a heading puts its best values first, another turns the order round; what is missing stays last. */
function sortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.first || "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const rows = [...body.rows].map((row) => [key(row.cells[column], head), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const way = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
        return order === "ascending" ? way : -way;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

function key(cell, head) {
  if (!("first" in head.dataset)) return cell.textContent.trim();
  const value = parseFloat(cell.dataset.value);
  return Number.isNaN(value) ? null : value;
}

/* Galleries: each card gets a stage with two of its pictures, one over the other, when it comes into sight. */
function stage(card) {
  const pictures = [...card.querySelectorAll(".strip img")];
  if (pictures.length < 2) return;
  const names = pictures.map((picture) => picture.dataset.name);
  const under = element("img", { alt: "" });
  const over = element("img", { alt: "" });
  const range = element("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  const compare = element("div", { className: "compare" }, under, over, range);
  compare.style.aspectRatio = card.dataset.shape;
  const choice = () => element("select", {}, ...names.map((name, i) => element("option", { value: i }, name)));
  const left = choice();
  const right = choice();
  const sides = element("div", { className: "sides" },
    element("label", {}, "Left of the line", left), element("label", {}, "Right of the line", right));
  card.querySelector(".strip").before(element("div", { className: "stage" }, compare, sides));

  const picks = pictures.map((picture, i) => {
    const pick = element("button", { type: "button", className: "pick", title: `Show ${names[i]} right of the line` });
    picture.replaceWith(pick);
    pick.append(picture);
    pick.addEventListener("click", () => { right.value = i; show(); });
    return pick;
  });
  const show = () => {
    const [a, b] = [Number(left.value), Number(right.value)];
    under.src = pictures[a].src;
    over.src = pictures[b].src;
    under.alt = pictures[a].alt;
    over.alt = pictures[b].alt;
    under.className = pictures[a].className;
    over.className = pictures[b].className;
    range.setAttribute("aria-label", `How much of ${names[a]} is seen beside ${names[b]}`);
    picks.forEach((pick, i) => pick.setAttribute("aria-pressed", i === b));
    move();
  };
  const move = () => {
    compare.style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${Math.round(range.value)} %`);
  };
  const at = (role) => Math.max(0, pictures.findIndex((picture) => picture.dataset.role === role));
  left.value = at("measured");
  right.value = at("restored");
  left.addEventListener("change", show);
  right.addEventListener("change", show);
  range.addEventListener("input", move);
  card.classList.add("open");
  show();
}

/* Whose worst pictures come first. */
function orderable(gallery) {
  const methods = JSON.parse(gallery.dataset.methods);
  if (methods.length < 2) return;
  const cards = [...gallery.querySelectorAll(".card")];
  const select = element("select", {}, element("option", { value: -1 }, "every method, in turn"),
    ...methods.map((name, i) => element("option", { value: i }, name)));
  const places = [...gallery.querySelectorAll(".cards")].map((place) => [place, place.children.length]);
  select.addEventListener("change", () => {
    const i = Number(select.value);
    const place = (card) => JSON.parse(card.dataset.places)[i] ?? Infinity;
    const ordered = i < 0 ? [...cards] : [...cards].sort((a, b) => place(a) - place(b));
    for (const [holder, count] of places) holder.append(...ordered.splice(0, count));
  });
  gallery.querySelector(".order").append(element("label", { className: "quiet" }, "Worst first for ", select));
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll(".gallery").forEach(orderable);
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    stage(entry.target);
  }
}, { rootMargin: "600px" });
document.querySelectorAll(".card").forEach((card) => seen.observe(card));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
