// Every event that this dashboard heard, newest first, by kind, role and word.

import { each, grid, h, row, say, tell } from "/static/dom.js";
import { ago } from "/static/format.js";

export function mount(root, store) {
  const choose = (id) => h("select", { id }, h("option", { value: "" }, "all"));
  const word = h("input", { type: "search", id: "word" });
  const kind = choose("kind");
  const role = choose("role");
  const count = h("p", { role: "status" });
  const lines = h("tbody");
  const field = (label, input) => h("label", {}, `${label} `, input);
  root.replaceChildren(h("h1", {}, "Log"), h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    field("with", word), field("kind", kind), field("from", role)), count,
  grid("Events, newest first", ["time", "age", "from", "what"], lines, {}));

  function options(select, values) {
    each(select, ["", ...values], (value) => value, (value) => h("option", { value }, value || "all"), () => {});
  }

  function update() {
    const all = store.under("log/");
    options(kind, [...new Set(all.map(([, said]) => said.kind))].sort());
    options(role, [...new Set(all.map(([, said]) => said.role))].sort());
    const wanted = word.value.toLowerCase();
    const found = all.filter(([, said]) => (!kind.value || said.kind === kind.value) && (!role.value || said.role === role.value)
      && said.text.toLowerCase().includes(wanted));
    say(count, `${found.length} of the latest ${all.length} events`);
    each(lines, found.reverse(), ([key]) => key, () => row(3), (line, [, said, age]) => tell(line, [new Date(1000 * said.clock).toLocaleTimeString("en-GB"), ago(age), said.role, said.text]));
  }
  for (const input of [word, kind, role]) input.addEventListener("input", update);
  return { update };
}
