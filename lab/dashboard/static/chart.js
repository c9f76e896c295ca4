// Plots with axes that say their units, readable in both themes and at any width; drawn by uPlot on a canvas, so each comes with a
// table of the same numbers beside it for whoever does not see it.

import { h } from "/static/dom.js";

const HEIGHT = 320;

// A colour of the style sheet as the theme has it: a canvas knows no custom properties.
function colours(root) {
  const probe = h("span", { hidden: true });
  root.append(probe);
  const found = {};
  for (const name of ["text", "soft", "line", "blue", "red", "amber", "green", "ground"]) {
    probe.style.color = `var(--${name})`;
    found[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}

// `x`: {label, time, range, whole}; `y`: {label, log, range}; `series`: [{label, colour, points, dash, width}], points "full" or "open" in the
// place of a line, or "few" on a line where there is room.  The answer's `set(data)` takes columns, x first.
export function chart(root, { x, y, series }) {
  const place = h("div", { class: "chart", "aria-hidden": "true" });
  root.append(place);
  let ink = colours(place);
  const axis = ({ label }, size) => ({ label, stroke: () => ink.text, grid: { stroke: () => ink.line, width: 1 }, ticks: { stroke: () => ink.line }, size, labelSize: 24, font: "13px system-ui, sans-serif", labelFont: "14px system-ui, sans-serif" });
  const drawn = ({ label, colour, points, dash, width = 2 }) => ({
    label, dash, width: points && points !== "few" ? 0 : width, stroke: () => ink[colour], spanGaps: false,
    points: { ...(points === "few" ? {} : { show: Boolean(points) }), size: points === "few" ? 5 : 10, width: 2, stroke: () => ink[colour], fill: () => (points === "open" ? ink.ground : ink[colour]) },
  });
  const options = {
    width: 300, height: HEIGHT, legend: { show: true, live: false }, cursor: { show: false },
    scales: { x: { time: Boolean(x.time), range: x.range }, y: { distr: y.log ? 3 : 1, range: y.range ?? (y.log ? decades : undefined) } },
    axes: [{ ...axis(x, 48), ...(x.whole ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] } : {}), ...(x.time ? { values: clock } : {}) }, axis(y, 80)], series: [{ label: x.label }, ...series.map(drawn)],
  };
  const plot = new uPlot(options, [[], ...series.map(() => [])], place);
  let told = "";
  new ResizeObserver(() => plot.setSize({ width: Math.max(200, place.clientWidth), height: HEIGHT })).observe(place);
  return {
    destroy() {
      plot.destroy();
      place.remove();
    },
    set(data) {
      const text = JSON.stringify(data);
      if (text !== told) plot.setData(data);
      told = text;
      const now = colours(place);
      if (Object.entries(now).some(([name, colour]) => ink[name] !== colour)) {
        ink = now;
        plot.redraw();
      }
    },
  };
}

// Times of day, or days where the ticks are a day apart.
function clock(plot, ticks, axis, space, step) {
  const shown = step < 86_400 ? { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) } : { day: "numeric", month: "short" };
  return ticks.map((at) => new Date(1000 * at).toLocaleString("en-GB", shown));
}

// Whole decades around all that is shown.
function decades(plot, low, high) {
  if (low === null || high === null || !(low > 0)) return [1, 10];
  return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
}
