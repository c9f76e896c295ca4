// What stands on record: blocks, calibrations, orders, training, runs; and an audit of these records when somebody asks for one.

import { ask } from "/static/act.js";
import { each, grid, h, row, say, tell } from "/static/dom.js";
import { ago, quantity, percent } from "/static/format.js";

const COLUMNS = ["id", "age", "pair", "what became of it", "key", "QBER", "code"];

export function mount(root, store) {
  const kind = h("select", { id: "kind" });
  const count = h("p", { role: "status" });
  const unread = h("ul", { class: "problems" });
  const rows = h("tbody");
  const outcome = h("p", { role: "status" });
  const checks = h("tbody");
  const table = grid("Checks of the audit", ["check", "state", "facts", "findings and notes"], checks);
  table.hidden = true;
  const link = h("p", {}, h("a", { href: "/pages/audit" }, "The page of the latest audit"), ", to be kept and mailed.");
  let written = false;
  const audit = h("button", { type: "button", onclick: () => ask("audit", "Hold all records of this folder against each other, from light to model? It reads them, changes nothing, and takes a while.", () => ({}), [], show) }, "Audit these records");
  root.replaceChildren(h("h1", {}, "Runs"), h("p", { class: "filters" }, h("label", {}, "Kind ", kind), audit), outcome, link, table, count, unread, grid("On record, newest first", COLUMNS, rows));
  kind.addEventListener("change", update);

  function show({ audit: found, page, text }) {
    say(outcome, text);
    written = Boolean(page);
    link.hidden = !written;
    outcome.dataset.state = found.passed ? "good" : "bad";
    table.hidden = false;
    each(checks, found.checks, ({ name }) => name, () => row(3), (line, { name, state, looked_at: facts, findings, notes }) => {
      tell(line, [name, state, facts, [...findings.map(({ where, what, means }) => `${where}: ${what} - ${means}`), ...notes].join("\n")]);
      line.children[1].dataset.state = state === "failed" ? "bad" : "";
    });
  }

  function update() {
    const runs = store.get("runs");
    const problem = store.get("problem/runs");
    const all = runs?.rows ?? [];
    link.hidden = !written && !store.get("audit-page");
    each(kind, ["", ...new Set(all.map((one) => one.kind))], (value) => value, (value) => h("option", { value }, value || "all"), () => {});
    const shown = all.filter((one) => !kind.value || one.kind === kind.value);
    say(count, runs ? `${shown.length} of the latest ${all.length}; ${runs.total} are on record (qunetlab runs lists all).` : "Nothing was read from the records of this machine yet.");
    each(unread, [...(problem ? [problem] : []), ...(runs?.unread ?? [])], (text) => text, () => h("li", { "data-colour": "amber" }), say);
    each(rows, shown, ({ id }) => id, () => row(6), (line, one) => {
      tell(line, [one.id, `${ago(store.since(one.when))} ago`, one.pair, one.result, one.bits === null ? "" : quantity(one.bits, "bit"), percent(one.qber), one.code]);
      line.children[3].dataset.state = one.ok ? "" : "bad";
    });
  }
  return { update };
}
