// Every event that this dashboard heard, newest first, filtered by word.

import { each, h, say } from "/static/dom.js";
import { ago } from "/static/format.js";

export function mount(root, store) {
  const filter = h("input", { type: "search", id: "filter" });
  const lines = h("ol", { class: "events" });
  root.replaceChildren(h("h1", {}, "Log"), h("label", { for: "filter" }, "Only lines with "), filter, lines);

  function update() {
    const wanted = filter.value.toLowerCase();
    const found = store.under("log/").filter(([, said]) => `${said.kind} ${said.role} ${said.text}`.toLowerCase().includes(wanted));
    each(lines, found.reverse(), ([key]) => key, () => h("li"), (line, [, said, age]) => say(line, `${ago(age)} ago: ${said.text}`));
  }
  filter.addEventListener("input", update);
  return { update };
}
