// Books of the pairs, and what applications were given: two tables, of the nodes that run on the dashboard's machine.

import { each, grid, h, row, tell } from "/static/dom.js";
import { ago, pairName, quantity, short } from "/static/format.js";

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const PAIR = ["produced", "free", "delivered", "authentication", "burnt", "epsilon: secrecy", "epsilon: correctness", "epsilon: messages", "epsilon: sum", "told by"];
const USE = ["node", "with, as", "keys", "bits", "bits today"];

export function books(store) {
  const pairs = h("tbody");
  const use = h("tbody");
  const given = h("div", {}, h("h2", {}, "Applications"), grid("What applications were given", ["application", ...USE], use));
  const element = h("div", {}, h("h2", {}, "Books"), h("p", { class: "note" }, "Every bit that a pair ever had, and what may have gone wrong with its key, added up: as the pair's first node on this machine has it."),
    grid("Books of each pair", ["pair", ...PAIR], pairs), given);

  function update() {
    each(pairs, booksOf(store), ({ name }) => name, () => row(PAIR.length), (line, { name, node, age, book }) => {
      const { sec, cor, auth, total } = book.epsilons;
      const stored = Object.values(book.lanes).reduce((sum, bits) => sum + bits, 0);
      tell(line, [name, ...[book.produced, stored, book.delivered, book.authentication, book.burnt].map((bits) => quantity(bits, "bit")),
        ...[sec, cor, auth, total].map(epsilon), `${node}, ${ago(age)} ago`]);
    });
    const rows = store.under("use/").flatMap(([key, told]) => told.map((one) => ({ node: key.split("/")[1], ...one })));
    given.hidden = !rows.length;
    each(use, rows, ({ node, sae, peer, side }) => JSON.stringify([node, sae, peer, side]), () => row(USE.length), (line, one) =>
      tell(line, [one.sae, one.node, `${one.peer}, ${one.side}`, short(one.keys), quantity(one.bits, "bit"),
        `${quantity(one.bits_today, "bit") || "none"}${one.quota_bits ? ` of ${quantity(one.quota_bits, "bit")}` : ""}`]));
  }
  return { element, update };
}

// Each pair once, in the order of the ring, as its first end here has it.
function booksOf(store) {
  const told = new Map(store.under("books/").map(([key, pairs, age]) => [key.split("/")[1], { pairs, age }]));
  return (store.get("testbed")?.pairs ?? []).flatMap(([first, second]) => {
    for (const [node, peer] of [[first, second], [second, first]]) {
      const book = told.get(node)?.pairs.find((one) => one.peer === peer);
      if (book) return [{ name: pairName(first, second), node, age: told.get(node).age, book }];
    }
    return [];
  });
}

function epsilon(number) {
  const [digits, power] = number.toExponential(1).split("e");
  return number ? `${digits}·10${[...power].map((each) => RAISED[each] ?? "").join("")}` : "0";
}
