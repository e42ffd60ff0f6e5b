// The loop of `lds_iter.solve` for one sequence, one iteration at a time, in float64. It draws nothing.
(function (Play) {
  "use strict";

  const ACCEPTED_ULPS = 4;
  const EPS = 2 ** -52;

  Play.Solve = class {
    /**
     * @param system see systems.js
     * @param method see methods.js
     * @param options window: rows beyond the frontier that may move; guess: T * D numbers; tolerance: rtol and atol
     */
    constructor(system, method, { window = system.T, guess = null, tolerance = 1e-10 } = {}) {
      Object.assign(this, { system, method, window, tolerance });
      const { D, T, s0 } = system;
      this.states = new Float64Array(T * D);
      if (guess) this.states.set(guess);
      else for (let t = 0; t < T; t++) this.states.set(s0, t * D);
      this.guess = this.states.slice();
      Object.assign(this, { iterations: 0, frontier: 0, done: false, memory: method.begin(), rows: [], past: [] });
      this.look();
    }

    /** The state before each row. */
    before(t) {
      const { D, s0 } = this.system;
      return t ? this.states.subarray((t - 1) * D, t * D) : s0;
    }

    /** Evaluate `f` along the guess, accept rows at the frontier, and see whether all is solved. */
    look() {
      const { D, T } = this.system;
      this.value = new Float64Array(T * D);
      this.residual = new Float64Array(T * D);
      const shown = new Float64Array(T).fill(NaN);
      shown.fill(0, 0, this.frontier);
      let hi;
      do {
        hi = Math.min(T, this.frontier + this.window);
        for (let t = this.frontier; t < hi; t++) shown[t] = this.evaluate(t);
        while (this.frontier < hi && this.isRounding(this.frontier)) this.frontier++;
      } while (this.frontier === hi && hi < T);
      this.end = hi;
      this.residual.fill(0, 0, this.frontier * D);
      this.done = hi === T && this.isSolved();
      this.rows.push({ residual: shown, accepted: this.frontier });
      this.largest = shown.reduce((a, b) => (b > a || Number.isNaN(a) ? b : a), 0);
    }

    /** Value and residual of one row; returns its largest residual. */
    evaluate(t) {
      const { D } = this.system;
      const value = this.system.step(this.before(t), t);
      let largest = 0;
      for (let i = 0; i < D; i++) {
        const n = t * D + i;
        this.value[n] = value[i];
        this.residual[n] = value[i] - this.states[n];
        largest = Math.max(largest, Math.abs(this.residual[n]));
      }
      return Number.isNaN(largest) ? Infinity : largest;
    }

    /** Whether the residual of a row is rounding alone: then it is accepted and moves no more. */
    isRounding(t) {
      const { D } = this.system;
      const prev = this.before(t);
      let size = 0;
      for (let i = 0; i < D; i++) size = Math.max(size, Math.abs(this.value[t * D + i]), Math.abs(prev[i]));
      for (let i = 0; i < D; i++) {
        const n = t * D + i;
        const bound = Math.min(size * ACCEPTED_ULPS * EPS, this.bound(n));
        if (!(Math.abs(this.residual[n]) <= bound && bound < Infinity)) return false;
      }
      return true;
    }

    bound(n) {
      return this.tolerance + this.tolerance * Math.abs(this.value[n]);
    }

    isSolved() {
      const { D, T } = this.system;
      for (let n = this.frontier * D; n < T * D; n++) if (!(Math.abs(this.residual[n]) <= this.bound(n))) return false;
      return true;
    }

    /** `f` along the guess, as the methods see it. Jacobians are computed once, when they are asked for. */
    along() {
      const { system } = this;
      const jacobians = [];
      return {
        system, D: system.D, T: system.T, lo: this.frontier, hi: this.end,
        states: this.states, value: this.value, residual: this.residual,
        jacobian: (t) => (jacobians[t] ??= system.jacobian(this.before(t), t)),
      };
    }

    /** One iteration: the method's update, the frontier row exactly, then a look at the new guess. */
    step() {
      if (this.done) return;
      const { D, T, s0 } = this.system;
      const { states, frontier, iterations, memory } = this;
      this.past.push({ states, frontier, iterations, memory });
      const [d, next] = this.method.update(this.along(), memory);
      const moved = states.slice();
      for (let t = frontier; t < this.end; t++) {
        const row = moved.subarray(t * D, t * D + D);
        const value = this.value.subarray(t * D, t * D + D);
        for (let i = 0; i < D; i++) row[i] += d[t * D + i];
        if (t === frontier) row.set(value);
        else if (!row.every(Number.isFinite)) row.set(value.every(Number.isFinite) ? value : s0);
      }
      Object.assign(this, { states: moved, memory: next, iterations: iterations + 1, frontier: frontier + 1 });
      this.look();
      if (this.frontier === T) this.done = true;
    }

    /** Undo the last iteration. */
    back() {
      const before = this.past.pop();
      if (!before) return;
      Object.assign(this, before);
      this.rows.length -= 2;
      this.look();
    }

    /** To the end. */
    run() {
      while (!this.done) this.step();
      return this;
    }
  };
})((globalThis.Play ??= {}));
