// What instruments read, with limits, age and trend, and how each role stands: its link, its interlock, its alarms.  Nothing is set from here.

import { each, grid, h, row, say, tell } from "/static/dom.js";
import { ago, reading as told } from "/static/format.js";
import { trend } from "/static/trend.js";

const LIGHT = [["d1_cps", "counts at D1"], ["d2_cps", "counts at D2"], ["backscatter_cps", "back-scatter"]];
const READINGS = ["instrument", "role", "parameter", "value", "limits", "age", "state", "trend"];

export function mount(root, store) {
  const role = h("select", { id: "role" });
  const roles = h("tbody");
  const readings = h("tbody");
  const none = h("p");
  const drawn = trend(store);
  root.replaceChildren(h("h1", {}, "Instruments"),
    grid("Roles that own instruments", ["role", "instruments", "link", "interlock", "to be made safe", "alarms"], roles),
    h("p", { class: "filters" }, h("label", {}, "Readings of ", role)), drawn.element, none, grid("Readings", READINGS, readings));
  role.addEventListener("change", update);

  function update() {
    const owners = store.get("testbed")?.instruments ?? {};
    const alarms = store.items("Alarm").filter(([, alarm]) => alarm.on);
    each(roles, Object.entries(owners), ([owner]) => owner, () => row(5), (line, [owner, names]) => tellRole(line, store, owner, names, alarms));
    each(role, ["", ...Object.keys(owners)], (owner) => owner, (owner) => h("option", { value: owner }, owner || "all roles"), () => {});
    const names = Object.keys(owners);
    const all = store.items("Readings").sort(([a, one], [b, other]) => names.indexOf(a) - names.indexOf(b)
      || one.instrument.localeCompare(other.instrument) || one.parameter.localeCompare(other.parameter));
    const shown = all.filter(([owner]) => !role.value || owner === role.value);
    say(none, shown.length ? "Limits are those within which no alarm begins, or what the driver takes. Of a user's instruments only temperatures and the light of a bypassed station are told."
      : "No reading is told: roles that own instruments tell them while they run.");
    each(readings, shown, ([owner, reading]) => keyOf(owner, reading), makeReading, (line, [owner, reading, age]) => tellReading(line, owner, reading, age, alarms));
    drawn.update([...(store.items("LightNow").length ? LIGHT : []).map(([field, name]) => ({ key: `item/relay/LightNow/${field}`, name, unit: "cps" })),
      ...shown.filter(([, { value }]) => typeof value !== "boolean").map(([owner, reading]) => ({ key: keyOf(owner, reading), name: `${reading.instrument} ${reading.parameter} of ${owner}`, unit: reading.unit }))]);
  }

  function makeReading([owner, reading]) {
    const line = row(7);
    if (typeof reading.value !== "boolean") line.lastChild.append(h("button", { type: "button", "aria-label": `Trend of ${reading.instrument} ${reading.parameter}`, onclick: () => drawn.show(keyOf(owner, reading)) }, "Trend"));
    return line;
  }
  return { update };
}

const keyOf = (owner, { instrument, parameter }) => `item/${owner}/Readings/${instrument}/${parameter}/value`;

function tellRole(line, store, owner, names, alarms) {
  const peer = store.get(`item/orchestrator/PeerStatus/${owner}`);
  const interlock = store.get(`interlock/${owner}`);
  const link = !peer ? "not known" : !peer.present ? "gone" : peer.ready ? `here for ${ago(store.age(`item/orchestrator/PeerStatus/${owner}`))}` : ["not ready", peer.reason].filter(Boolean).join(": ");
  const failed = new Set(peer?.instruments ?? []);
  const state = interlock?.state;
  const unsafe = [...Object.entries(state?.unsafe ?? {}).map(([name, why]) => `${name}: ${why}`), ...(state?.under_way ?? []).map((name) => `${name}: under way`)];
  const own = alarms.filter(([role]) => role === owner).map(([, alarm]) => `${alarm.severity}: ${alarm.text}`);
  tell(line, [owner, names.map(([name, model]) => `${name} (${model}${failed.has(name) ? ", failed" : ""})`).join(", "), link,
    interlock ? `${interlock.text} (${ago(store.age(`interlock/${owner}`))} ago)` : "not on this machine", unsafe.join("; ") || (state ? "nothing" : ""), own.join("; ") || "none"]);
  line.children[2].dataset.state = peer?.present && peer.ready ? "" : "bad";
  line.children[3].dataset.state = state?.causes.length ? "bad" : "";
  line.children[4].dataset.state = unsafe.length ? "bad" : "";
}

function tellReading(line, owner, { instrument, parameter, value, unit, low, high, age_s: before }, age, alarms) {
  const number = typeof value === "number";
  const beyond = number && ((low !== null && value < low) || (high !== null && value > high));
  const alarm = alarms.find(([role, one]) => role === owner && one.part === instrument)?.[1];
  const limits = [low === null ? "" : `from ${told(low, unit)}`, high === null ? "" : `to ${told(high, unit)}`].filter(Boolean).join(" ");
  const state = value === null ? "unreadable" : alarm ? `alarm: ${alarm.text}` : beyond ? (value < low ? "below its limit" : "above its limit") : limits ? "within limits" : "no limit";
  tell(line, [instrument, owner, parameter, number ? told(value, unit) : value === null ? "no number" : value ? "on" : "off", limits, ago(before + age), state]);
  line.children[6].dataset.state = alarm || beyond || value === null ? "bad" : "";
}
