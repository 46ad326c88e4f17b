"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = { displayModeBar: false, doubleClick: "reset" };

  const resolve = (value, style) => {
    if (typeof value === "string") {
      const match = /^var\((--[\w-]+)\)$/.exec(value);
      return match ? style.getPropertyValue(match[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolve(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, style)]));
    }
    return value;
  };

  const axis = (own, narrow) => ({
    gridcolor: "var(--line)", linecolor: "var(--line)", zerolinecolor: "var(--muted)", zerolinewidth: 1, zeroline: false, ticks: "",
    automargin: true, nticks: narrow ? 5 : 9, tickfont: { color: "var(--muted)", size: 12 }, ...own,
    title: { font: { color: "var(--muted)", size: 13 }, standoff: 8, ...(own && own.title) },
  });

  const layout = (own) => {
    const narrow = window.innerWidth < 640;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: narrow ? false : "zoom",
      font: { family: getComputedStyle(document.body).fontFamily, color: "var(--ink)", size: 13 },
      margin: narrow ? { l: 12, r: 12, t: 12, b: 12 } : { l: 20, r: 24, t: 16, b: 16 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: narrow ? 11 : 12.5, color: "var(--ink)" }, itemwidth: 30, bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--line)", align: "left", font: { color: "var(--ink)", size: 12.5 } },
      ...own, xaxis: axis(own.xaxis, narrow), yaxis: axis(own.yaxis, narrow),
    };
  };

  const draw = () => {
    const style = getComputedStyle(root);
    for (const [name, figure] of Object.entries(figures)) {
      Plotly.react(`chart-${name}`, resolve(figure.data, style), resolve(layout(figure.layout), style), config);
    }
  };

  const observer = new ResizeObserver((entries) => {
    for (const entry of entries) if (entry.target.data) Plotly.Plots.resize(entry.target);
  });
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const show = (dark) => { root.dataset.theme = dark ? "dark" : "light"; draw(); };
  system.addEventListener("change", (event) => show(event.matches));
  window.matchMedia("(max-width: 639px)").addEventListener("change", draw);
  document.getElementById("theme").addEventListener("click", () => show(root.dataset.theme !== "dark"));
  show(system.matches);
  document.querySelectorAll(".chart").forEach((chart) => observer.observe(chart));
})();
