// The wall page: one word and its age, what is wrong, a tile for each pair, who waits for whose key, the last events.

import { each, events, h, say } from "/static/dom.js";
import { ago, lasting, pairName, percent, quantity, waiting } from "/static/format.js";

const EVENTS = 8;

export function mount(root, store) {
  const word = h("span", { class: "word" });
  const about = h("span", { class: "about" });
  const age = h("span", { class: "age" });
  const problems = h("ul", { class: "problems" });
  const tiles = h("ul", { class: "tiles" });
  const waits = h("p", { class: "waits" });
  const latest = h("ol", { class: "events" });
  const verdict = h("section", { class: "verdict", "aria-label": "State of the ring" }, h("p", { class: "words" }, word, " ", about, " ", age), problems);
  root.replaceChildren(h("h1", { class: "quiet" }, "Wall"), verdict,
    h("h2", {}, "Pairs"), tiles, waits, h("h2", {}, "Last events"), latest);

  function update() {
    const stale = document.body.classList.contains("stale");
    const lamp = store.get("lamp");
    verdict.dataset.colour = stale ? "red" : lamp?.colour ?? "red";
    say(word, stale ? "STALE" : lamp?.word ?? "NO ANSWER");
    const attacked = store.get("attack")?.name ? ", under a simulated attack" : "";
    say(about, (stale ? `was ${lamp?.word ?? "unknown"}` : lamp?.about ?? "nothing was heard yet") + attacked);
    say(age, ago(stale ? store.staleness() : store.age("lamp")));
    each(problems, lamp?.problems ?? [], (problem) => problem.text, () => h("li"), (line, problem) => {
      line.dataset.colour = problem.colour;
      say(line, problem.text);
    });
    each(tiles, store.items("PairStatus"), ([, pair]) => pairName(pair.first, pair.second), makeTile, (tile, row) => tell(tile, row, store));
    say(waits, waiting(store).join("; "));
    events(latest, store.under("log/"), EVENTS);
  }
  return { update };
}

function makeTile() {
  const row = (name) => [h("dt", {}, name), h("dd")];
  return h("li", {}, h("h3", {}, h("span"), " ", h("span", { class: "note" })), h("dl", {}, row("stock"), row("QBER"), row("rate in light"), row("last block")));
}

function tell(tile, [, pair, told], store) {
  const key = `${pair.first}/${pair.second}`;
  const plan = store.get(`plan/${key}`);
  const blockKey = `item/${pair.first}/BlockReport/${key}`;
  const block = store.get(blockKey);
  const lasts = store.get(`lasts/${key}`);
  const [stock, qber, rate, last] = tile.querySelectorAll("dd");
  say(tile.firstChild.firstChild, pairName(pair.first, pair.second));
  say(tile.firstChild.lastChild, `${ago(told)} ago`);
  say(stock, `${quantity(pair.stock_bits, "bit")}, ${lasts === null || lasts === undefined ? "not used" : `lasts ${lasting(lasts)}`}`);
  say(qber, block?.qber === null || !block ? "-" : `${percent(block.qber)}${plan ? ` (limit ${percent(plan.qber_limit, 0)})` : ""}`);
  const made = block?.stored && block.light_s ? block.secret_bits / block.light_s : null;
  say(rate, made === null ? (plan ? `${quantity(plan.rate_bps, "bit/s")} planned` : "-")
    : `${quantity(made, "bit/s")}${plan ? `, ${percent(made / plan.rate_bps, 0)} of plan` : ""}`);
  say(last, block ? `${ago(store.age(blockKey))} ago${block.stored ? "" : ", no key"}` : "none yet");
  tile.title = block && !block.stored ? block.reason : "";
}
