// Training: where the run stands, who waits for whose key, and accuracy and cost of every round on record.

import { chart } from "/static/chart.js";
import { each, figures, grid, h, row, say, tell } from "/static/dom.js";
import { ago, keyRate, pairName, percent, quantity, waiting } from "/static/format.js";

export function mount(root, store) {
  const now = h("p");
  const waits = h("ul", { class: "problems" });
  const sums = h("dl", { class: "figures" });
  const canvas = h("div");
  const stocks = h("tbody");
  const rounds = h("tbody");
  const source = h("p", { class: "note" });
  root.replaceChildren(h("h1", {}, "Training"), now, waits, sums, h("h2", {}, "Accuracy over rounds"), canvas, source,
    grid("Rounds, newest first", ["round", "what became of it", "accuracy", "loss", "key used", "uploaded", "clients", "age"], rounds),
    grid("Key for the next rounds", ["pair", "stock", "age", "rate", "enough for"], stocks, {}));
  const plot = chart(canvas, { x: { label: "round", whole: true }, y: { label: "accuracy (%)", range: [0, 100] }, series: [{ label: "accuracy", colour: "blue", points: "full" }] });

  function update() {
    const [, learning, age] = store.items("Learning")[0] ?? [];
    const kept = store.get("training");
    const all = kept?.rounds ?? [];
    const summed = all.filter((round) => round.accuracy !== undefined);
    say(now, !learning ? "No learning server tells of a run." : `Run ${learning.run_id}, ${learning.mode}: ${learning.state}, ${learning.done} of ${learning.rounds} rounds summed, ${learning.aborted} given up`
      + `${learning.accuracy === null ? "" : `, accuracy ${percent(learning.accuracy, 1)}`}${learning.reason ? `: ${learning.reason}` : ""} (${ago(age)} ago).`);
    each(waits, waiting(store), (text) => text, () => h("li", { "data-colour": "amber" }), say);
    const add = (name) => all.reduce((sum, round) => sum + (round[name] ?? 0), 0);
    figures(sums, all.length ? [["key used", quantity(add("key_bits"), "bit")], ["uploaded", quantity(add("upload_bytes"), "B")], ["rounds given up", String(all.length - summed.length)]] : []);
    say(source, kept ? `From the records of run ${kept.run_id}, ${ago(store.age("training"))} old.${learning && learning.run_id !== kept.run_id ? " The run above has no round on record here yet." : ""}`
      : "No round is on record on this machine: rounds are read from the learning server's records, where it runs here.");
    canvas.hidden = !summed.length;
    plot.set([summed.map(({ round }) => round), summed.map(({ accuracy }) => 100 * accuracy)]);
    each(rounds, [...all].reverse(), ({ round, at }) => `${round} ${at}`, () => row(7), (line, round) => {
      tell(line, [round.round, round.reason ? `given up: ${round.reason}` : "summed", percent(round.accuracy, 1), round.loss?.toPrecision(4), quantity(round.key_bits, "bit"),
        quantity(round.upload_bytes, "B"), clients(round), `${ago(store.since(round.at))} ago`]);
      line.children[1].dataset.state = round.reason ? "bad" : "";
    });
    each(stocks, store.items("PairStatus"), ([, pair]) => pairName(pair.first, pair.second), () => row(4), (line, [, pair, told]) =>
      tell(line, [pairName(pair.first, pair.second), quantity(pair.stock_bits, "bit"), ago(told), keyRate(pair), learning?.round_bits ? `${Math.floor(pair.stock_bits / learning.round_bits)} rounds` : ""]));
  }
  return { update };
}

function clients({ participants = [], survivors }) {
  const gone = survivors ? participants.filter((name) => !survivors.includes(name)) : [];
  return `${participants.length}${gone.length ? `, without ${gone.join(", ")}` : ""}`;
}
