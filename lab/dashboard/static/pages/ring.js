// The ring as a drawing: the loop, who stands in it, who holds the light, counts at both detectors, links and alarms.

import { each, figures, grid, h, row, say, svg, tell } from "/static/dom.js";
import { ago, pairName, quantity } from "/static/format.js";

const SIZE = 580;
const CENTRE = SIZE / 2;
const RADIUS = 210;
const BOX = { width: 132, height: 58 };

// Places on the loop, clockwise in the order of the ring, the relay at the bottom.
function place(index, count) {
  const angle = Math.PI / 2 + (2 * Math.PI * index) / count;
  return [CENTRE + RADIUS * Math.cos(angle), CENTRE + RADIUS * Math.sin(angle)];
}

function station(name, [x, y]) {
  const box = svg("rect", { x: x - BOX.width / 2, y: y - BOX.height / 2, width: BOX.width, height: BOX.height, rx: 8, class: "box" });
  const text = (dy, kind) => svg("text", { x, y: y + dy, "text-anchor": "middle", class: kind });
  const parts = { group: svg("g", { class: "station" }, box), name: text(-4, "name"), state: text(16, "state") };
  say(parts.name, name);
  parts.group.append(parts.name, parts.state);
  return parts;
}

export function mount(root, store) {
  const drawing = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "ring", role: "img" });
  const detectors = h("dl", { class: "figures" });
  const words = h("p");
  const calm = h("p");
  const alarms = h("ul", { class: "problems" });
  const rows = h("tbody");
  root.replaceChildren(h("h1", {}, "Ring"), h("div", { class: "beside" }, drawing,
    h("div", {}, words, h("h2", {}, "Light at this moment"), detectors, h("h2", {}, "Alarms"), calm, alarms)), grid("Links", ["role", "link", "since", "why"], rows, {}));
  let parts = null;

  function build(users) {
    parts = new Map();
    const loop = svg("circle", { cx: CENTRE, cy: CENTRE, r: RADIUS, class: "loop" });
    const light = svg("circle", { cx: CENTRE, cy: CENTRE, r: RADIUS, class: "light" });
    const centre = (dy, kind) => svg("text", { x: CENTRE, y: CENTRE + dy, "text-anchor": "middle", class: kind });
    const pair = centre(-8, "pair");
    const progress = centre(22, "state");
    drawing.replaceChildren(loop, light, pair, progress);
    ["relay", ...users].forEach((name, index, all) => {
      parts.set(name, station(name, place(index, all.length)));
      drawing.append(parts.get(name).group);
    });
    return { light, pair, progress };
  }
  let middle = null;

  function update() {
    const users = store.get("testbed")?.users;
    if (!users) return;
    if (!parts) middle = build(users);
    const [, ring, said] = store.items("RingStatus")[0] ?? [];
    const lit = ring && ring.phase !== "free";
    const now = store.items("LightNow")[0];
    const peers = new Map(store.items("PeerStatus").map(([, peer, age]) => [peer.peer, [peer, age]]));
    middle.light.classList.toggle("on", Boolean(lit));
    say(middle.pair, lit ? pairName(ring.first, ring.second) : "no lease");
    say(middle.progress, lit && now?.[1].first ? `${Math.round((100 * now[1].pulses) / now[1].planned_pulses)} % of the block` : lit ? ring.phase : "");
    for (const [name, part] of parts) {
      const [peer] = peers.get(name) ?? [];
      const holds = lit && (name === ring.first || name === ring.second);
      const state = !peer?.present ? "gone" : !peer.ready ? "not ready" : name === "relay" ? (lit ? "measures" : "ready") : holds ? "in the ring" : "bypassed";
      part.group.dataset.state = state;
      say(part.state, state);
    }
    drawing.setAttribute("aria-label", `${lit ? `${pairName(ring.first, ring.second)} holds the light` : "No pair holds the light"}; ${[...parts].map(([name, part]) => `${name} ${part.state.textContent}`).join(", ")}`);
    const since = ring ? ` for ${ago(ring.for_s + said)}` : "";
    say(words, lit ? `${pairName(ring.first, ring.second)}, lease ${ring.lease_number}, ${ring.phase}${since}` : `The ring is free${since}.`);
    figures(detectors, lightNow(now));
    say(calm, store.items("Alarm").length ? "" : "None.");
    each(alarms, store.items("Alarm"), ([role, alarm]) => [role, alarm.name, alarm.peer, alarm.part].join("/"), () => h("li"), (line, [role, alarm, age]) => {
      line.dataset.colour = alarm.severity === "minor" ? "amber" : "red";
      say(line, `${role}: ${alarm.text} (${ago(age)})${alarm.what_to_do ? `. ${alarm.what_to_do}` : ""}`);
    });
    each(rows, [...peers.values()], ([peer]) => peer.peer, () => row(3), (line, [peer, age]) => {
      const link = !peer.present ? "gone" : peer.ready ? "here" : "not ready";
      tell(line, [peer.peer, link, ago(age), peer.reason]);
    });
  }
  return { update };
}

// What the relay tells of the light: counts a second at both detectors, and what is scattered back where it is known.
function lightNow([, light, age] = []) {
  const counts = (cps) => (cps === null || cps === undefined ? "not counted yet" : quantity(Math.max(cps, 0), "cps"));
  return light?.first ? [["D1", counts(light.d1_cps)], ["D2", counts(light.d2_cps)], ["back-scatter", counts(light.backscatter_cps)], ["age", ago(age)]] : [];
}
