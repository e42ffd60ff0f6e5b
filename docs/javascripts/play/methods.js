// The methods: from `f` along the guess (see solver.js) to the update d of every open row. A method:
//   begin() -> what it remembers           update(along, memory) -> [d (T * D), memory]
(function (Play) {
  "use strict";

  const EPS = 2 ** -52;

  /** d_t = (1 - k_t) A_t d_{t-1} + r_t over the open rows; the frontier row has A = 0. */
  function scan(along, transition, keep) {
    const { D, lo, hi, residual } = along;
    const d = new Float64Array(residual.length);
    const moved = new Float64Array(D);
    for (let t = lo; t < hi; t++) {
      const o = t * D;
      if (t > lo) transition(moved, along, t, d.subarray(o - D, o));
      const kept = t > lo ? keep(t) : 0;
      for (let i = 0; i < D; i++) d[o + i] = (kept === 0 ? 0 : kept * moved[i]) + residual[o + i];
    }
    return d;
  }

  const transitions = {
    newton(out, along, t, d) {
      Play.apply(out, along.jacobian(t), 0, d, along.D);
    },
    quasi(out, along, t, d) {
      const J = along.jacobian(t);
      for (let i = 0; i < d.length; i++) out[i] = J[i * d.length + i] * d[i];
    },
    picard(out, along, t, d) {
      out.set(d);
    },
    jacobi(out) {
      out.fill(0);
    },
  };

  /** `Damped(method, k)`; the method itself for k = 0. */
  const chosen = (name) => (k) => ({
    begin: () => null,
    update: (along) => [scan(along, transitions[name], () => 1 - k), null],
  });

  /** `LevenbergMarquardt(sigma2)`, Kalman's filter, with 1 / sigma2 = k / (1 - k). */
  function kalman(k) {
    const q = k / (1 - k);
    return {
      begin: () => null,
      update(along) {
        const { D, lo, hi, residual } = along;
        const d = new Float64Array(residual.length);
        const ahead = new Float64Array(D);
        let gain = new Float64Array(D * D);
        d.set(residual.subarray(lo * D, lo * D + D), lo * D);
        for (let t = lo + 1; t < hi; t++) {
          const o = t * D;
          const J = along.jacobian(t);
          const spread = Play.multiply(Play.multiply(J, gain, D), Play.transpose(J, D), D);
          const predicted = Play.plus(spread, q, D);
          const hold = Play.inverse(Play.plus(predicted, 1, D), D);
          gain = Play.multiply(predicted, hold, D);
          Play.apply(ahead, J, 0, d.subarray(o - D, o), D);
          for (let i = 0; i < D; i++) ahead[i] += residual[o + i];
          Play.apply(d.subarray(o, o + D), hold, 0, ahead, D);
        }
        return [d, null];
      },
    };
  }

  const STEP = 1 / 6;
  const RELAX = 1;
  const REJECT = 8;
  const [NEARLY_LINEAR, ENOUGH, ENOUGH_OF_A_ROW, STILL] = [0.01, 0.5, 0.1, 0.9];
  const [PATIENCE, PATIENCE_AT_A_POINT] = [6, 1];

  /** `TrustRegion(Newton(), k)`: the damping follows the size of the updates. The rule is that of the library. */
  function trust(k) {
    return {
      begin: () => ({ k: k || 0.25, idle: 0, residual: Infinity, trying: true }),
      update(along, memory) {
        const measures = extents(along);
        const { now, range } = measures;
        const idle = memory.idle >= (range <= now ? PATIENCE_AT_A_POINT : PATIENCE);
        const { good, trusted, whole } = trial(along, memory, idle, now);
        const keep = (t) => (trusted[t] && !good ? 1 : 1 - memory.k);
        const d = scan(along, transitions.newton, keep);
        const sizes = rowSizes(along, d, measures).map((size, t) => (trusted[t] ? 0 : size));
        const largest = sizes.reduce((a, b) => Math.max(a, b), 0);
        const rejected = !(largest <= REJECT) && !good;
        if (rejected) reject(along, d, sizes, trusted, measures);
        const relaxed = largest < RELAX || good;
        let next = memory.k;
        if (relaxed) next /= largest < RELAX / 4 || good ? 4 : 2;
        if (next < EPS) next = 0;
        shorten(along, d, sizes, trusted, whole);
        const still = now > STILL * memory.residual && STILL * now < memory.residual && !rejected;
        const waits = !relaxed && (still || idle);
        const waited = waits ? (idle ? PATIENCE : memory.idle + 1) : 0;
        return [d, { k: next, idle: waited, residual: now, trying: good }];
      },
    };
  }

  /** The largest finite residual of the open rows, and the largest range of a coordinate of f's values there. */
  function extents({ D, lo, hi, residual, value }) {
    let now = 0;
    let range = -Infinity;
    for (let i = 0; i < D; i++) {
      let [low, high] = [Infinity, -Infinity];
      for (let t = lo; t < hi; t++) {
        const [r, v] = [Math.abs(residual[t * D + i]), value[t * D + i]];
        if (Number.isFinite(r)) now = Math.max(now, r);
        if (Number.isFinite(v)) [low, high] = [Math.min(low, v), Math.max(high, v)];
      }
      range = Math.max(range, high - low);
    }
    return { now, range, extent: Math.max(range, now) };
  }

  function rowSizes({ D, lo, hi }, d, { extent }) {
    const sizes = new Array(d.length / D).fill(0);
    for (let t = lo; t < hi; t++)
      for (let i = 0; i < D; i++) sizes[t] = Math.max(sizes[t], Math.abs(d[t * D + i]) / (extent > 0 ? extent : 1));
    return sizes;
  }

  /** `f` along the update without damping: is it good as a whole, and which first rows may take it? */
  function trial(along, memory, idle, now) {
    const { D, T, lo, hi } = along;
    const trusted = new Array(T).fill(false);
    if (!memory.trying && !idle) return { good: false, trusted, whole: null };
    const whole = scan(along, transitions.newton, () => 1);
    const states = along.states.map((s, n) => s + whole[n]);
    const enough = memory.residual === Infinity ? NEARLY_LINEAR : ENOUGH;
    let good = true;
    let fine = true;
    for (let t = lo; t < hi; t++) {
      const next = along.system.step(t ? states.subarray((t - 1) * D, t * D) : along.system.s0, t);
      let after = 0;
      for (let i = 0; i < D; i++) after = Math.max(after, Math.abs(next[i] - states[t * D + i]));
      good &&= after <= enough * now;
      fine &&= after <= ENOUGH_OF_A_ROW * now;
      trusted[t] = fine && idle;
    }
    return { good, trusted: good ? trusted.fill(true) : trusted, whole };
  }

  /** Rows behind the first that grew too long take the value of `f`. */
  function reject({ D, lo, hi, residual }, d, sizes, trusted, measures) {
    const instead = rowSizes({ D, lo, hi }, residual, measures);
    let grown = false;
    for (let t = lo; t < hi; t++) {
      const far = !(sizes[t] <= RELAX);
      if ((grown || !Number.isFinite(sizes[t])) && !trusted[t]) {
        d.set(residual.subarray(t * D, t * D + D), t * D);
        sizes[t] = instead[t];
      }
      grown ||= far;
    }
  }

  /** No row moves by more than `STEP` extents, unless it takes the whole update. */
  function shorten({ D, lo, hi }, d, sizes, trusted, whole) {
    for (let t = lo; t < hi; t++)
      for (let i = 0; i < D; i++) {
        const n = t * D + i;
        if (trusted[t]) d[n] = whole[n];
        else if (sizes[t] > STEP) d[n] *= STEP / sizes[t];
      }
  }

  Play.methods = {
    newton: chosen("newton"), quasi: chosen("quasi"), picard: chosen("picard"), jacobi: chosen("jacobi"), kalman, trust,
  };
})((globalThis.Play ??= {}));
