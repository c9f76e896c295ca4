// Elements from plain calls.  Text always goes in as text: nothing that another process wrote is ever markup.

import { ago } from "/static/format.js";

export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined));
  return element;
}

// Sets text only where it differs: no layout, and no word of a screen reader, for what stays.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// One child for each item, kept by key: `make(item)` once, `update(child, item)` each time; those that are gone go.
export function each(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (child) old.delete(key);
    else {
      child = make(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of old.values()) child.remove();
}

// A table that scrolls alone where the page is narrower; `body` is its tbody.
export function grid(title, heads, body, attributes = { class: "wide" }) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, h("table", attributes, h("caption", {}, title),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), body));
}

// A row of a table: one that it is about, and so many cells more.
export function row(cells) {
  return h("tr", {}, h("th", { scope: "row" }), Array.from({ length: cells }, () => h("td")));
}

export function tell(line, texts) {
  texts.forEach((text, index) => say(line.children[index], String(text ?? "")));
}

// A few numbers in a dl, each [name, text].
export function figures(list, told) {
  each(list, told, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (entry, [, text]) => say(entry.children[1], text));
}

// Lines of the log in an ol, the newest `most` of them.
export function events(list, log, most) {
  each(list, log.slice(-most).reverse(), ([key]) => key, () => h("li", {}, h("time"), h("span")), (line, [, said, age]) => tell(line, [`${ago(age)} ago`, said.text]));
}
