// Numbers for people, as the command line shows them; a number and its unit are never on two lines.

const GAP = "\u202f";

export function ago(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)}${GAP}s`;
  if (s < 120) return `${Math.round(s)}${GAP}s`;
  if (s < 7200) return `${Math.floor(s / 60)}${GAP}min ${Math.floor(s % 60)}${GAP}s`;
  if (s < 172800) return `${Math.floor(s / 3600)}${GAP}h ${Math.floor((s % 3600) / 60)}${GAP}min`;
  return `${Math.floor(s / 86400)} days`;
}

export function short(number) {
  if (number === null || number === undefined) return "";
  for (const [factor, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= factor) return `${Number((number / factor).toPrecision(3))}${letter}`;
  }
  return String(Number(number.toPrecision(3)));
}

// With a unit, as it is written: `322 kbit`.
export function quantity(number, unit) {
  const text = short(number);
  const [, digits, letter] = text.match(/^(.*?)([kMGT]?)$/);
  return text ? `${digits}${GAP}${letter}${unit}` : "";
}

const PREFIXED = ["W", "V", "Hz", "bit", "bit/s", "cps"];
const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"], [1e-15, "f"]];

// What an instrument reads, as many digits as mean something: `22.106 fW`, `2.5 GHz`, `1,550.12 nm`.
export function reading(number, unit) {
  const [factor, shown] = scale(number, unit);
  return `${(number / factor).toLocaleString("en-GB", { maximumSignificantDigits: PREFIXED.includes(unit) ? 5 : 6 })}${unit && GAP}${shown}`;
}

// What numbers as large as this one are shown in: [factor, unit].
export function scale(number, unit) {
  if (unit === "%") return [0.01, unit];
  if (!PREFIXED.includes(unit) || !number) return [1, unit.replace("deg", "°")];
  const [factor, letter] = PREFIXES.find(([each]) => Math.abs(number) >= each) ?? PREFIXES.at(-1);
  return [factor, letter + unit];
}

export function percent(share, digits = 2) {
  return share === null || share === undefined ? "" : `${(100 * share).toFixed(digits)}${GAP}%`;
}

// What a pair's key is made at, and whether that was ever seen.
export function keyRate({ rate_bps: rate, measured }) {
  return `${quantity(rate, "bit/s")} ${measured ? "measured, with pauses" : "of light, planned"}`;
}

// How long something lasts, in the unit that an operator plans with.
export function lasting(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

// As the command line names a pair: a hyphen, or a colon where names hold one.
export function pairName(first, second) {
  return [first, second].join(first.includes("-") || second.includes("-") ? ":" : "-");
}

// An attack that is on, with its strength and for how long.
export function attackTold(store, { name, strength }) {
  const known = store.get("attacks")?.find((one) => one.name === name);
  return `${known?.title ?? name}, ${short(strength)} ${known?.unit ?? ""} ${known?.strength ?? ""}, for ${ago(store.age("attack"))}`;
}

// Who waits for whose key: pairs that have less than a round takes; where that is not told, what the client said that asked last.
export function waiting(store) {
  const learning = store.items("Learning")[0]?.[1];
  if (learning?.state !== "waiting") return [];
  if (!learning.round_bits) return learning.waits.map(([who, peer]) => `${who} waits for key with ${peer}`);
  return store.items("PairStatus").filter(([, pair]) => pair.stock_bits < learning.round_bits)
    .map(([, pair]) => `${pair.first} and ${pair.second} wait for key: ${quantity(pair.stock_bits, "bit")} of ${quantity(learning.round_bits, "bit")}`);
}
