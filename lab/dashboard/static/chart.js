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

// `x`: {label, time}; `y`: {label, log, range}; `series`: [{label, colour, points, dash, width}].  The answer's `set(data)` takes columns, x first.
export function chart(root, { x, y, series }) {
  const place = h("div", { class: "chart", "aria-hidden": "true" });
  root.append(place);
  let ink = colours(place);
  const axis = ({ label }, size) => ({ label, stroke: () => ink.text, grid: { stroke: () => ink.line, width: 1 }, ticks: { stroke: () => ink.line }, size, labelSize: 24, font: "13px system-ui, sans-serif", labelFont: "14px system-ui, sans-serif" });
  const drawn = ({ label, colour, points, dash, width = 2 }) => ({
    label, dash, width: points ? 0 : width, stroke: () => ink[colour], spanGaps: false,
    points: { show: Boolean(points), size: 10, width: 2, stroke: () => ink[colour], fill: () => (points === "open" ? ink.ground : ink[colour]) },
  });
  const options = {
    width: 300, height: HEIGHT, legend: { show: true, live: false }, cursor: { show: false },
    scales: { x: { time: Boolean(x.time) }, y: { distr: y.log ? 3 : 1, range: y.range ?? (y.log ? decades : undefined) } },
    axes: [axis(x, 48), axis(y, 80)], series: [{ label: x.label }, ...series.map(drawn)],
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

// Whole decades around all that is shown.
function decades(plot, low, high) {
  if (low === null || high === null || !(low > 0)) return [1, 10];
  return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
}
