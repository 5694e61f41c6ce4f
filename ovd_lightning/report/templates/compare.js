// Which groups are shown: a checkbox each, with a sample of its line.
(async () => {
  const data = await pageData;
  if (!data) return;
  const NS = "http://www.w3.org/2000/svg";
  const LENGTHS = { solid: "", dot: "3 3", dash: "8 4", longdash: "12 5", dashdot: "8 4 3 4", longdashdot: "12 5 3 5" };
  const hidden = new Set();
  const samples = [];
  function recolourSamples() {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    for (const [line, slot] of samples) line.setAttribute("stroke", data.palette[dark ? "dark" : "light"][slot]);
  }
  for (const { label, slot, n } of data.groups) {
    const box = document.createElement("input"), text = document.createElement("label");
    const svg = document.createElementNS(NS, "svg"), line = document.createElementNS(NS, "line");
    box.type = "checkbox";
    box.checked = true;
    svg.setAttribute("width", "44");
    svg.setAttribute("height", "12");
    svg.setAttribute("aria-hidden", "true");
    for (const [name, value] of [["x1", 0], ["x2", 44], ["y1", 6], ["y2", 6], ["stroke-width", 3]]) line.setAttribute(name, value);
    const dash = data.dashes[slot];
    line.setAttribute("stroke-dasharray", LENGTHS[dash] ?? dash.replaceAll("px", ""));
    svg.append(line);
    samples.push([line, slot]);
    text.append(box, svg, `${label} (n = ${n})`);
    find("groups").append(text);
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(slot);
      else hidden.add(slot);
      for (const { id, figure } of data.figures) {
        if (!figure) continue;
        for (const trace of figure.data) trace.visible = !hidden.has(trace.meta.slot);
      }
      drawCurves();
    });
  }
  recolourSamples();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolourSamples);
})();
