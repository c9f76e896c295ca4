// The attack range of a simulated ring: what there is and what is promised against it, a switch, and what happened since.

import { ask } from "/static/act.js";
import { each, events, grid, h, row, say, tell } from "/static/dom.js";
import { ago, attackTold, pairName, percent, quantity, short } from "/static/format.js";

const EVENTS = 30;
const NEWS = ["BlockReport", "LeaseStatus", "Alarm", "PeerStatus", "Learning"];
const COLUMNS = ["pair", "latest block since", "QBER", "QBER planned", "rate in light", "rate planned", "key planned", "key made", "what became of it"];

export function mount(root, store) {
  const now = h("p", { class: "attack-now", role: "status" });
  const end = h("button", { type: "button", onclick: () => ask("attack-end", "End the attack? Pairs that were suspended meanwhile make key again.", () => ({})) }, "End the attack");
  const rows = h("tbody");
  const since = h("h2", {}, "What happened");
  const pairs = h("tbody");
  const happened = h("ol", { class: "events" });
  let latest = null;
  root.replaceChildren(h("h1", {}, "Attacks"),
    h("p", { class: "note" }, "This ring is simulated, so it may be attacked. Every attack ends in a shorter key, in a block or a round that is refused with its reason, or in nothing that an attacker gains; a real ring has neither this page nor the switch."),
    now, h("p", { class: "buttons" }, end),
    grid("Attacks of this ring", ["attack", "what it does", "what is promised against it", "strength", "switch"], rows),
    since, grid("Key since the attack began", COLUMNS, pairs), h("h3", {}, "Events since the attack began"), happened);

  function update() {
    const attack = store.get("attack");
    const problem = store.get("problem/attack");
    if (attack?.name) latest = { ...attack, at: store.now() - store.age("attack") };
    say(now, attack?.name ? `ON: ${attackTold(store, attack)}, begun by ${attack.who}.`
      : attack ? "No attack is on." : `Not known which attack is on: ${problem ?? "the simulator has not answered yet"}.`);
    now.dataset.state = attack?.name ? "bad" : "";
    end.disabled = !attack?.name;
    each(rows, store.get("attacks") ?? [], ({ name }) => name, makeRow, (line, one) => {
      line.lastChild.lastChild.disabled = !attack || Boolean(attack.name);
    });
    const began = latest ? store.now() - latest.at : null;
    say(since, !latest ? "What happened: no attack was on while this page looked" : `What happened since ${latest.name} began, ${ago(began)} ago${attack?.name ? "" : " (it has ended)"}`);
    each(pairs, latest ? store.get("testbed")?.pairs ?? [] : [], (pair) => pairName(...pair), () => row(COLUMNS.length - 1), (line, pair) => tell(line, outcome(store, pair, began)));
    const news = latest ? store.under("log/").filter(([, said, age]) => age <= began && NEWS.includes(said.kind)) : [];
    events(happened, news, EVENTS);
  }
  return { update };
}

function makeRow(one) {
  const strength = h("input", { type: "number", min: one.least, max: one.most, step: "any", value: one.usual, "aria-label": `Strength of ${one.title}` });
  const begin = h("button", { type: "button", "aria-label": `Attack: ${one.title}`, onclick: () => ask("attack", `Put this simulated ring under attack: ${one.title}, ${short(Number(strength.value))} ${one.unit} ${one.strength}?`,
    () => ({ name: one.name, strength: strength.value === "" ? null : Number(strength.value) })) }, "Attack");
  return h("tr", {}, h("th", { scope: "row" }, one.title), h("td", {}, one.does), h("td", {}, one.promise, h("br"), h("span", { class: "note" }, one.source)),
    h("td", {}, strength, ` ${one.unit} ${one.strength}`), h("td", { class: "buttons" }, begin));
}

// A pair's latest block, if it came since the attack began.
function outcome(store, [first, second], began) {
  const key = `item/${first}/BlockReport/${first}/${second}`;
  const [block, age, plan] = [store.get(key), store.age(key), store.get(`plan/${first}/${second}`)];
  const name = pairName(first, second);
  const fault = store.get(`item/orchestrator/PairStatus/${first}/${second}`);
  const why = fault && !fault.available ? fault.reason : fault?.failures ? fault.fault : "";
  const qber = plan ? percent(plan.qber) : "";
  const rate = plan ? quantity(plan.rate_bps, "bit/s") : "";
  if (!block || age > began) return [name, "none", "", qber, "", rate, "", "", why];
  return [name, `${ago(age)} ago`, percent(block.qber), qber, block.light_s ? quantity(block.secret_bits / block.light_s, "bit/s") : "", rate, plan ? quantity(plan.rate_bps * block.light_s, "bit") : "",
    quantity(block.secret_bits, "bit"), block.stored ? "key was stored" : `no key: ${block.reason}`];
}
