// Numbers for people, as the command line shows them.

export function ago(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
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
  return text ? `${digits}\u202f${letter}${unit}` : "";
}

export function percent(share, digits = 2) {
  return share === null || share === undefined ? "" : `${(100 * share).toFixed(digits)} %`;
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
