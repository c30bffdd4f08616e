// What a reader asks of a report: sort and copy a table; hover, zoom, switch, save.
"use strict";
(() => {
  const said = document.getElementById("said");
  const say = (text) => { said.textContent = text; };
  const make = (tag, more, ...inside) => {
    const node = Object.assign(document.createElement(tag), more);
    node.append(...inside);
    return node;
  };
  const button = (text, act, more) =>
    make("button", { type: "button", textContent: text, onclick: act, ...more });

  // ---- tables ----
  const cells = (row) => [...row.cells].map((cell) => cell.textContent.trim());
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const csv = (table) => [...table.rows].map((row) => cells(row).map(quoted).join(",")).join("\n") + "\n";
  const SIGNS = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$" };
  const tex = (text) => text.replace(/[\\~^±&%$#_{}]/g, (sign) => SIGNS[sign] || `\\${sign}`);
  const latex = (table) => {
    const [head, ...rows] = [...table.rows].map((row) => cells(row).map(tex).join(" & ") + " \\\\");
    const columns = "ll" + "r".repeat(Math.max(0, table.rows[0].cells.length - 2));
    return [`\\begin{tabular}{${columns}}`, "\\toprule", head, "\\midrule", ...rows,
      "\\bottomrule", "\\end{tabular}", ""].join("\n");
  };
  const copy = async (text, what) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const box = make("textarea", { value: text });
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
    say(`Copied as ${what}.`);
  };
  const compared = (one, other) => {
    const numbers = [parseFloat(one), parseFloat(other)];
    return numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
  };
  const sort = (table, at, head) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) =>
      (down ? -1 : 1) * compared(cells(a)[at], cells(b)[at]));
    table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
    say(`Sorted by ${head.textContent.trim()}, ${down ? "descending" : "ascending"}.`);
  };
  for (const box of document.querySelectorAll(".table")) {
    const table = box.querySelector("table");
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      const act = button(head.textContent, () => sort(table, at, head), { title: "Sort" });
      head.replaceChildren(act);
    });
    box.after(make("div", { className: "tools" },
      button("Copy as CSV", () => copy(csv(table), "CSV")),
      button("Copy as LaTeX", () => copy(latex(table), "LaTeX"))));
  }

  // ---- figures ----
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = (inDark) => {
    const [ink, soft, rule, paper] = inDark
      ? ["#e7e9ec", "#a9afb8", "#3a3f48", "#16181d"] : ["#1d1f23", "#565b63", "#d9dce1", "#ffffff"];
    const axis = { labelColor: soft, titleColor: ink, gridColor: rule, domainColor: soft,
      tickColor: soft, labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: "normal" };
    return { background: paper, font: "system-ui, sans-serif", axis, view: { stroke: rule },
      // One below the other: beside each other they are cut off on a phone.
      legend: { layout: { bottom: { anchor: "start", direction: "vertical" } },
        labelColor: ink, titleColor: soft, labelFontSize: 12, titleFontWeight: "normal",
        symbolOpacity: 1, symbolStrokeWidth: 2 } };
  };
  const unpacked = (columns) => {
    const names = Object.keys(columns);
    const lists = names.map((name) => {
      const { texts, codes } = columns[name];
      return texts ? codes.map((code) => texts[code]) : columns[name];
    });
    return lists[0].map((_, i) => Object.fromEntries(names.map((name, j) => [name, lists[j][i]])));
  };
  const put = (spec, path, value) => {
    const steps = path.split(".");
    const last = steps.pop();
    steps.reduce((at, step) => (at[step] ??= {}), spec)[last] = value;
  };
  // An axis is fitted to the points, not to intervals, which two values make endless.
  const fitted = (rows, name) => {
    const values = rows.map((row) => row[name]).filter((v) => v !== null && v !== undefined);
    if (!values.length) return null;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = 0.06 * (high - low) || 0.01 * Math.abs(high) || 1;
    return [low - room, high + room];
  };
  const scaled = (span, type, by) => {
    const log = type === "log";
    const [a, b] = log ? span.map(Math.log) : span;
    const ends = by(a, b);
    return log ? ends.map(Math.exp) : ends;
  };
  const MOVES = {
    "+": ["Closer", (a, b) => [a + (b - a) / 6, b - (b - a) / 6], "xy"],
    "-": ["Wider", (a, b) => [a - (b - a) / 4, b + (b - a) / 4], "xy"],
    ArrowLeft: ["Left", (a, b) => [a - (b - a) / 8, b - (b - a) / 8], "x"],
    ArrowRight: ["Right", (a, b) => [a + (b - a) / 8, b + (b - a) / 8], "x"],
    ArrowDown: ["Down", (a, b) => [a - (b - a) / 8, b - (b - a) / 8], "y"],
    ArrowUp: ["Up", (a, b) => [a + (b - a) / 8, b + (b - a) / 8], "y"],
  };

  class Answering {
    constructor(figure, told) {
      Object.assign(this, { figure, told, rows: unpacked(told.columns), span: {}, turn: 0 });
      this.chosen = told.choices.map(() => 0);
      this.kept = told.filters.map((f) => new Set(
        (f.one ? [f.options.find((o) => o[2]) ?? f.options[0]] : f.options.filter((o) => o[2])).map((o) => o[0])));
      this.view = make("div", { className: "view", tabIndex: 0 });
      this.view.setAttribute("role", "group");
      this.view.setAttribute("aria-label", `${told.title}: plus and minus zoom, arrows move, 0 shows all`);
      this.view.onkeydown = (event) => this.key(event);
      this.box = make("div", { className: "live" }, this.controls(), this.view, this.tools());
      figure.prepend(this.box);
    }
    controls() {
      const box = make("div", { className: "controls" });
      this.told.choices.forEach((choice, i) => {
        if (choice.options.length < 2) return;
        const pick = make("select", { onchange: () => {
          this.chosen[i] = pick.selectedIndex; this.span = {}; this.draw(); } });
        choice.options.forEach(([words]) => pick.append(make("option", { textContent: words })));
        box.append(make("label", { className: "choice" }, choice.title, pick));
      });
      const many = make("div");
      this.told.filters.forEach((filter, i) =>
        (filter.one ? box : many).append(filter.one ? this.one(filter, i) : this.many(filter, i)));
      if (many.children.length) {
        box.append(make("details", { className: "filters" },
          make("summary", { textContent: "Switch lines on and off" }), many));
      }
      return box;
    }
    one(filter, i) {
      const pick = make("select", { onchange: () => {
        this.kept[i] = new Set([filter.options[pick.selectedIndex][0]]); this.span = {}; this.draw(); } });
      filter.options.forEach(([value, words]) => pick.append(
        make("option", { textContent: words, selected: this.kept[i].has(value) })));
      return make("label", { className: "choice" }, filter.title, pick);
    }
    many(filter, i) {
      const list = make("div", { className: "options" });
      const boxes = filter.options.map(([value, words, on]) => {
        const tick = make("input", { type: "checkbox", checked: on, onchange: () => {
          this.kept[i][tick.checked ? "add" : "delete"](value); this.draw(); } });
        list.append(make("label", {}, tick, words));
        return tick;
      });
      const all = (on) => () => {
        boxes.forEach((tick) => { tick.checked = on; });
        this.kept[i] = new Set(on ? filter.options.map((o) => o[0]) : []);
        this.draw();
      };
      return make("fieldset", {}, make("legend", { textContent: filter.title }), list,
        make("div", { className: "tools" }, button("all", all(true)), button("none", all(false))));
    }
    tools() {
      const moves = this.told.spec.layer ? [
        button("Closer", () => this.move("+")), button("Wider", () => this.move("-")),
        button("Show all", () => this.reset())] : [];
      return make("div", { className: "tools" }, ...moves,
        button("Save SVG", () => this.save("svg")), button("Save PNG", () => this.save("png")));
    }
    key(event) {
      if (event.target !== this.view || !this.told.spec.layer) return;
      const name = event.key === "=" ? "+" : event.key;
      if (name === "0") this.reset();
      else if (MOVES[name]) this.move(name);
      else return;
      event.preventDefault();
    }
    move(name) {
      const [, by, axes] = MOVES[name];
      for (const axis of axes) {
        const scale = this.drawn.view.scale(axis);
        this.span[axis] = scaled(scale.domain(), scale.type, by);
      }
      this.draw();
    }
    reset() { this.span = {}; this.draw(); }
    spec(inDark) {
      const { told } = this;
      const spec = structuredClone(told.spec);
      told.choices.forEach((choice, i) => {
        for (const [path, value] of Object.entries(choice.options[this.chosen[i]][1]))
          put(spec, path, structuredClone(value));
      });
      const rows = this.rows.filter((row) =>
        told.filters.every((filter, i) => this.kept[i].has(row[filter.column])));
      const up = (spec.params ?? []).find((param) => param.name === "up")?.value;
      const domain = told.fit && up ? fitted(rows, up) : null;
      if (domain) put(spec, "encoding.y.scale.domain", domain);
      for (const [axis, span] of Object.entries(this.span)) {
        put(spec, `encoding.${axis}.scale.domain`, span);
        put(spec, `encoding.${axis}.scale.nice`, false);
      }
      return { width: "container", height: 340, description: told.title, ...spec,
        data: { values: rows }, config: theme(inDark) };
    }
    async draw() {
      const turn = ++this.turn;
      this.figure.classList.add("answers");
      const place = document.createElement("div");
      const old = this.drawn;
      const spec = this.spec(dark.matches);
      if (!spec.data.values.length) { // an axis of nothing has no ends
        this.view.replaceChildren(make("p", { textContent: "Nothing is switched on." }));
        this.figure.dataset.drawn = turn;
        return;
      }
      this.view.append(place);
      place.style.visibility = "hidden";
      const tooltip = { theme: dark.matches ? "dark" : "light" };
      let drawn;
      try {
        drawn = await vegaEmbed(place, spec, { actions: false, renderer: "svg", tooltip });
      } catch (error) { // the still figure is better than none
        this.figure.classList.remove("answers");
        throw error;
      }
      if (turn !== this.turn) { drawn.finalize(); place.remove(); return; }
      old?.finalize();
      this.view.replaceChildren(place);
      place.style.visibility = "";
      this.drawn = drawn;
      this.figure.dataset.drawn = turn;
    }
    async save(kind) {
      const place = document.createElement("div");
      const spec = { ...this.spec(false), width: this.drawn.view.width() };
      const made = await vegaEmbed(place, spec, { actions: false, renderer: "none" });
      const href = kind === "svg"
        ? URL.createObjectURL(new Blob([await made.view.toSVG()], { type: "image/svg+xml" }))
        : await made.view.toImageURL("png", 2);
      made.finalize();
      make("a", { href, download: `${this.told.name}.${kind}` }).click();
      say(`Saved ${this.told.name}.${kind}.`);
    }
  }

  const all = [];
  if (typeof vegaEmbed === "function") {
    for (const told of JSON.parse(document.getElementById("figures").textContent))
      all.push(new Answering(document.getElementById(told.name), told));
    // Far figures wait: a phone draws what it shows first.
    const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
      const one = all.find((a) => a.figure === entry.target);
      if (entry.isIntersecting && one && !one.drawn) { seen.unobserve(one.figure); one.draw(); }
    }), { rootMargin: "600px" });
    all.forEach((one) => seen.observe(one.figure));
    dark.addEventListener("change", () => all.forEach((one) => one.drawn && one.draw()));
  }
})();
