"use strict";
// Unpacks a page's data and Plotly's code, draws its figures, and draws them anew when the theme changes. Resolves to
// the data; to null where the browser cannot unpack it.
const find = (id) => document.getElementById(id);
let drawCurves;
const pageData = (async () => {
  async function unpack(id) {
    const bytes = Uint8Array.from(atob(find(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  let data;
  try {
    data = JSON.parse(await unpack("run-data"));
    const code = document.createElement("script");
    code.textContent = await unpack("plotly-code");
    document.head.append(code);
  } catch (error) {
    find("failure").textContent = "This browser could not unpack the page's data (" + error.message + "). Any browser since 2023 can.";
    find("failure").hidden = false;
    return null;
  }

  function themed() {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--soft").trim(), line = style.getPropertyValue("--line").trim();
    const card = style.getPropertyValue("--card").trim();
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line };
    return { ink, line, card, axis, palette: data.palette[dark ? "dark" : "light"] };
  }
  // A trace names its colour by its place in the palette; a band's or an area's is filled with it.
  function recolour(trace, { card, palette }) {
    const { slot, alpha } = trace.meta || {};
    if (slot === undefined) return trace;
    const colour = palette[slot], [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    const copy = structuredClone(trace);
    if (copy.line) copy.line.color = copy.stackgroup ? card : colour;
    if (copy.marker) copy.marker.color = colour;
    if (copy.marker?.pattern) Object.assign(copy.marker, { pattern: { ...copy.marker.pattern, fgcolor: card, bgcolor: colour } });
    if (copy.error_y) copy.error_y.color = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    if (copy.fillpattern) Object.assign(copy.fillpattern, { bgcolor: colour, fgcolor: card });
    if (alpha) copy.fillcolor = `rgba(${r},${g},${b},${alpha})`;
    else if (copy.stackgroup) copy.fillcolor = colour;
    return copy;
  }
  drawCurves = () => {
    const theme = themed(), { ink, line, card, axis } = theme;
    const touch = matchMedia("(pointer: coarse)").matches;
    for (const { id, figure } of data.figures) {
      if (!figure) continue;
      const layout = structuredClone(figure.layout);
      Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true });
      layout.font = { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily };
      layout.hoverlabel = { bgcolor: card, bordercolor: line, font: { color: ink } };
      layout.xaxis = { ...layout.xaxis, ...axis, showgrid: false };
      layout.yaxis = { ...layout.yaxis, ...axis };
      if (touch) layout.dragmode = false;
      Plotly.react(find("plot-" + id), figure.data.map((trace) => recolour(trace, theme)), layout, { responsive: true, displayModeBar: false });
    }
  };
  drawCurves();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCurves);
  return data;
})();
