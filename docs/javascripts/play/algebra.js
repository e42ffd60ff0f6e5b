// Random numbers from a seed, and small dense matrices: row-major Float64Array of D * D numbers.
(function (Play) {
  "use strict";

  /** Independent numbers from N(0, 1): mulberry32, then Box and Muller. The same seed gives the same numbers. */
  Play.normals = function (seed) {
    let a = seed >>> 0;
    let spare = null;
    const uniform = () => {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    return () => {
      if (spare !== null) {
        const kept = spare;
        spare = null;
        return kept;
      }
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
      const angle = 2 * Math.PI * uniform();
      spare = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    };
  };

  /** a b */
  Play.multiply = function (a, b, D) {
    const out = new Float64Array(D * D);
    for (let i = 0; i < D; i++)
      for (let k = 0; k < D; k++) {
        const factor = a[i * D + k];
        for (let j = 0; j < D; j++) out[i * D + j] += factor * b[k * D + j];
      }
    return out;
  };

  /** a^T */
  Play.transpose = function (a, D) {
    const out = new Float64Array(D * D);
    for (let i = 0; i < D; i++) for (let j = 0; j < D; j++) out[j * D + i] = a[i * D + j];
    return out;
  };

  /** a + number I */
  Play.plus = function (a, number, D) {
    const out = a.slice();
    for (let i = 0; i < D; i++) out[i * D + i] += number;
    return out;
  };

  /** The inverse of a positive definite matrix, by Gauss and Jordan: no pivots are needed. */
  Play.inverse = function (a, D) {
    const left = a.slice();
    const right = Play.plus(new Float64Array(D * D), 1, D);
    for (let c = 0; c < D; c++) {
      const pivot = 1 / left[c * D + c];
      for (let j = 0; j < D; j++) {
        left[c * D + j] *= pivot;
        right[c * D + j] *= pivot;
      }
      for (let i = 0; i < D; i++) {
        const factor = left[i * D + c];
        if (i === c || factor === 0) continue;
        for (let j = 0; j < D; j++) {
          left[i * D + j] -= factor * left[c * D + j];
          right[i * D + j] -= factor * right[c * D + j];
        }
      }
    }
    return right;
  };

  /** out = a x, where `a` begins at `from` */
  Play.apply = function (out, a, from, x, D) {
    for (let i = 0; i < D; i++) {
      let sum = 0;
      for (let j = 0; j < D; j++) sum += a[from + i * D + j] * x[j];
      out[i] = sum;
    }
  };
})((globalThis.Play ??= {}));
