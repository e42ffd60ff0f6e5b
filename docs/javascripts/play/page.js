// The page: controls, buttons, keys, the address that holds the state, and what screen readers are told.
(function (Play) {
  "use strict";

  const DAMPINGS = [0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9];
  const WINDOWS = [1, 2, 5, 10, 20, 50, 100, 200, Infinity];
  const FRAME_MS = 66;
  const SHOWN = 8;
  const DEFAULTS = { s: "network", g: "1", m: "newton", k: "0", w: "all", guess: "start", seed: "1", c: "1", i: "0" };

  class Page {
    constructor(root) {
      this.root = root;
      this.field = (name) => root.querySelector(`[data-play="${name}"]`);
      this.solved = null;
      this.timer = null;
      Play.drawScale(this.field("scale"));
      for (const name of ["system", "gain", "method", "damping", "window", "guess", "seed"])
        this.field(name).addEventListener("input", () => this.reset());
      this.field("coordinate").addEventListener("input", () => this.show());
      for (const name of ["step", "run", "back", "reset"])
        this.field(name).addEventListener("click", () => this.press(name));
      root.addEventListener("keydown", (event) => this.key(event));
      addEventListener("hashchange", () => this.open());
      addEventListener("resize", () => this.show());
      new MutationObserver(() => this.show()).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
      this.open();
    }

    /** Set the controls from the address, and iterate as far as it says. */
    open() {
      const text = location.hash.length > 1 ? location.hash : location.search;
      const state = { ...DEFAULTS, ...Object.fromEntries(new URLSearchParams(text.slice(1))) };
      const index = (list, value) => String(Math.max(0, list.indexOf(value)));
      const window = state.w === "all" ? Infinity : Number(state.w);
      const set = {
        system: state.s, gain: state.g, method: state.m, damping: index(DAMPINGS, Number(state.k)),
        window: index(WINDOWS, window), guess: state.guess, seed: state.seed, coordinate: state.c,
      };
      for (const [name, value] of Object.entries(set)) this.field(name).value = value;
      this.reset();
      for (let n = 0; n < Number(state.i) && !this.solve.done; n++) this.solve.step();
      this.show();
    }

    settings() {
      const value = (name) => this.field(name).value;
      const seed = Math.max(1, Math.floor(Number(value("seed"))) || 1);
      return {
        system: value("system"), gain: Number(value("gain")), method: value("method"), guess: value("guess"), seed,
        damping: DAMPINGS[Number(value("damping"))], window: WINDOWS[Number(value("window"))],
      };
    }

    /** Begin anew with what the controls say. */
    reset() {
      this.stop();
      const now = this.settings();
      this.system = Play.systems[now.system](now);
      this.truth = Play.sequential(this.system);
      this.exponent = Play.exponent(this.system, this.truth);
      const { D, T } = this.system;
      this.field("coordinate").max = D;
      if (Number(this.field("coordinate").value) > D) this.field("coordinate").value = 1;
      this.solve = new Play.Solve(this.system, Play.methods[now.method](now.damping), {
        window: Math.min(T, now.window),
        guess: this.guess(now.guess),
      });
      this.show();
    }

    guess(kind) {
      const { D, T } = this.system;
      if (kind === "zeros") return new Float64Array(T * D);
      if (kind === "last" && this.solved && this.solved.length === T * D) return this.solved;
      return null;
    }

    press(name) {
      if (name === "run" && this.timer !== null) return this.stop();
      this.stop();
      if (name === "run") return this.run();
      if (name === "reset") return this.reset();
      this.solve[name]();
      return this.show();
    }

    /** To the end: an iteration a frame, or at once for those who asked for less motion. */
    run() {
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
        this.solve.run();
        this.show();
        return;
      }
      this.field("run").textContent = "Pause";
      this.timer = setInterval(() => {
        this.solve.step();
        if (this.solve.done) this.stop();
        this.show();
      }, FRAME_MS);
    }

    stop() {
      if (this.timer !== null) clearInterval(this.timer);
      this.timer = null;
      this.field("run").textContent = "Run";
    }

    key(event) {
      const typing = event.target.matches("input, select, button, summary, a");
      const name = { " ": "step", ArrowRight: "step", ArrowLeft: "back", Enter: "run", Home: "reset" }[event.key];
      if (typing || !name || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      this.press(name);
    }

    error() {
      return this.truth.reduce((most, x, n) => Math.max(most, Math.abs(x - this.solve.states[n])), 0);
    }

    show() {
      const { solve } = this;
      const { T } = this.system;
      if (solve.done) this.solved = solve.states;
      const dark = document.body.getAttribute("data-md-color-scheme") === "slate";
      Play.drawMap(this.field("map"), solve);
      Play.drawTrajectory(this.field("trajectory"), solve, this.truth, Number(this.field("coordinate").value) - 1, dark);
      this.labels();
      this.status();
      this.numbers();
      this.field("step").disabled = this.field("run").disabled = solve.done;
      this.field("back").disabled = solve.past.length === 0;
      Object.assign(this.root.dataset, { iterations: solve.iterations, accepted: solve.frontier, done: solve.done, steps: T });
      this.link();
    }

    labels() {
      const now = this.settings();
      const k = now.damping;
      this.field("gain").closest("label").hidden = now.system !== "network";
      this.field("damping").closest("label").hidden = now.method === "jacobi";
      const window = now.window >= this.system.T ? `all ${this.system.T} steps` : `${now.window} steps`;
      const damping = now.method === "trust" ? `begins at ${k || 0.25}` : String(k);
      for (const [name, text] of [["gain", String(now.gain)], ["damping", damping], ["window", window]]) {
        this.field(`${name}-shown`).textContent = text;
        this.field(name).setAttribute("aria-valuetext", text);
      }
    }

    status() {
      const { solve, exponent } = this;
      const { T } = this.system;
      const small = (x) => (x === 0 ? "0" : x.toExponential(0));
      const end = solve.done ? `Solved. A loop takes ${T} turns; this took ${solve.iterations}.` : "";
      this.field("status").textContent =
        `Iteration ${solve.iterations}. Accepted: ${solve.frontier} of ${T} time steps. ` +
        `Largest residual ${small(solve.largest)}, error ${small(this.error())}. ` +
        `Lyapunov exponent ${exponent.toFixed(3)} nats a step. ${end}`;
      const damping = solve.memory?.k;
      this.field("memory").textContent = damping === undefined ? "" : `Damping now: ${small(damping)}.`;
    }

    /** The map as a table of the last iterations, for those who do not see it. */
    numbers() {
      const first = Math.max(0, this.solve.rows.length - SHOWN);
      const cells = this.solve.rows.slice(first).map(({ residual, accepted }, n) => {
        const open = residual.filter((r) => !Number.isNaN(r));
        const large = open.filter((r) => r > 1e-3).length;
        const largest = open.reduce((a, b) => Math.max(a, b), 0);
        return [first + n, accepted, largest.toExponential(1), large];
      });
      this.field("numbers").replaceChildren(
        ...cells.map((row) => {
          const line = document.createElement("tr");
          for (const text of row) line.insertCell().textContent = text;
          return line;
        }),
      );
    }

    /** Keep the state in the address, so that it can be sent to somebody. */
    link() {
      const now = this.settings();
      const state = {
        s: now.system, g: now.gain, m: now.method, k: now.damping, w: now.window === Infinity ? "all" : now.window,
        guess: now.guess, seed: now.seed, c: this.field("coordinate").value, i: this.solve.iterations,
      };
      const differs = Object.entries(state).filter(([name, value]) => String(value) !== DEFAULTS[name]);
      const text = new URLSearchParams(differs).toString();
      this.field("link").href = `#${text}`;
      if (location.search || location.hash) history.replaceState(null, "", `#${text}`);
    }
  }

  Play.begin = function () {
    const root = document.getElementById("playground");
    if (root) Play.page = new Page(root);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", Play.begin);
  else Play.begin();
})((globalThis.Play ??= {}));
