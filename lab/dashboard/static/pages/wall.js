// The wall page: one word and its age, tiles, who waits, the last events.

import { each, h, say } from "/static/dom.js";
import { ago, pairName, percent, short } from "/static/format.js";

const WORDS = { running: "KEYING", idle: "IDLE", degraded: "DEGRADED", stopped: "STOPPED", "no answer": "STALE" };
const EVENTS = 8;

export function mount(root, store) {
  const word = h("p", { class: "word" });
  const why = h("p", { class: "why" });
  const tiles = h("ul", { class: "tiles" });
  const events = h("ol", { class: "events" });
  root.replaceChildren(h("h1", { class: "quiet" }, "Wall"), h("section", { class: "verdict", "aria-label": "State" }, word, why),
    tiles, h("h2", {}, "Last events"), events);

  function update() {
    const verdict = store.get("verdict");
    root.dataset.state = verdict?.state ?? "no answer";
    say(word, `${WORDS[verdict?.state] ?? "STALE"} ${ago(store.age("verdict"))}`);
    say(why, verdict?.text ?? "nothing was heard yet");
    each(tiles, store.items("PairStatus"), ([, pair]) => pairName(pair.first, pair.second), () => h("li", {}, h("h3"), h("p"), h("p")),
      (tile, [, pair, age]) => {
        const block = store.get(`item/${pair.first}/BlockReport/${pair.first}/${pair.second}`);
        say(tile.children[0], pairName(pair.first, pair.second));
        say(tile.children[1], `${short(pair.stock_bits)}bit in stock, ${short(pair.rate_bps)}bit/s${pair.measured ? "" : " planned"}`);
        say(tile.children[2], `QBER ${block ? percent(block.qber) : "-"}; ${ago(age)} old`);
      });
    each(events, store.under("log/").slice(-EVENTS).reverse(), ([key]) => key, () => h("li"),
      (line, [, said, age]) => say(line, `${ago(age)} ago: ${said.text}`));
  }
  return { update };
}
