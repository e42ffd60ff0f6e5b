// The recurrences of the page. A system: D, T, s0 (D), inputs (T * width), and for one time step
//   step(state, t) -> D numbers            jacobian(state, t) -> D * D numbers, row-major
(function (Play) {
  "use strict";

  const inputs = (T, width, draw) => {
    const u = new Float64Array(T * width);
    for (let t = 0; t < T; t++) for (let i = 0; i < width; i++) u[t * width + i] = draw(t, i);
    return u;
  };

  /** s' = gain W tanh(s) + u, with slow waves as inputs: forgets for a small gain, chaotic for a large one. */
  function network({ gain, seed }) {
    const D = 16;
    const T = 400;
    const normal = Play.normals(seed);
    const weight = Float64Array.from({ length: D * D }, () => normal() / Math.sqrt(D));
    const wave = Play.normals(seed + 99);
    const waves = Array.from({ length: D }, () => [Math.abs(wave()) * 0.03 + 0.01, 6 * wave(), 0.5 * wave()]);
    const u = inputs(T, D, (t, i) => waves[i][2] * Math.sin(waves[i][0] * t + waves[i][1]));
    return {
      D, T, gain, weight, inputs: u, s0: new Float64Array(D),
      step(s, t) {
        const h = s.map(Math.tanh);
        const out = new Float64Array(D);
        Play.apply(out, weight, 0, h, D);
        return out.map((x, i) => gain * x + u[t * D + i]);
      },
      jacobian(s) {
        const slope = s.map((x) => gain * (1 - Math.tanh(x) ** 2));
        return weight.map((w, n) => w * slope[n % D]);
      },
    };
  }

  /** A circle that is walked around with a free phase: a difference in phase neither grows nor dies. */
  function oscillator({ seed }) {
    const T = 600;
    const [turn, pull, noise] = [0.12, 0.2, 0.02];
    const [c, s] = [Math.cos(turn), Math.sin(turn)];
    const normal = Play.normals(seed);
    const u = inputs(T, 2, () => noise * normal());
    const growth = (x) => 1 + pull * (1 - x[0] * x[0] - x[1] * x[1]);
    return {
      D: 2, T, turn, pull, inputs: u, s0: Float64Array.of(1, 0),
      step(x, t) {
        const g = growth(x);
        return Float64Array.of(g * (c * x[0] - s * x[1]) + u[2 * t], g * (s * x[0] + c * x[1]) + u[2 * t + 1]);
      },
      jacobian(x) {
        const g = growth(x);
        const [a, b, k] = [c * x[0] - s * x[1], s * x[0] + c * x[1], -2 * pull];
        return Float64Array.of(g * c + k * x[0] * a, -g * s + k * x[1] * a, g * s + k * x[0] * b, g * c + k * x[1] * b);
      },
    };
  }

  /** A particle in two wells, pushed by noise: the step is close to the identity, and it hops at times. */
  function wells({ seed }) {
    const T = 600;
    const h = 0.02;
    const normal = Play.normals(seed);
    const u = inputs(T, 1, () => Math.sqrt(2 * h * 0.25) * normal());
    return {
      D: 1, T, h, inputs: u, s0: Float64Array.of(-1),
      step: (x, t) => Float64Array.of(x[0] + h * (x[0] - x[0] ** 3) + u[t]),
      jacobian: (x) => Float64Array.of(1 + h * (1 - 3 * x[0] ** 2)),
    };
  }

  /** A bit that is set now and then and remembered in between: expands near 0, contracts at its two levels. */
  function latch({ seed }) {
    const T = 400;
    const normal = Play.normals(seed);
    const pulse = (t) => (t % 130 < 12 ? (Math.floor(t / 130) % 2 ? -1.2 : 1.2) : 0);
    const u = inputs(T, 1, (t) => 0.25 * normal() + pulse(t));
    return {
      D: 1, T, inputs: u, s0: Float64Array.of(0),
      step: (x, t) => Float64Array.of(Math.tanh(2 * x[0] + u[t])),
      jacobian: (x, t) => Float64Array.of(2 * (1 - Math.tanh(2 * x[0] + u[t]) ** 2)),
    };
  }

  /** Lorenz' equations by Euler's method: chaotic. */
  function lorenz() {
    const T = 600;
    const h = 0.01;
    return {
      D: 3, T, h, inputs: new Float64Array(T), s0: Float64Array.of(1, 1, 20),
      step: (x) => Float64Array.of(
        x[0] + h * 10 * (x[1] - x[0]),
        x[1] + h * (x[0] * (28 - x[2]) - x[1]),
        x[2] + h * (x[0] * x[1] - (8 / 3) * x[2]),
      ),
      jacobian: (x) => Float64Array.of(
        1 - 10 * h, 10 * h, 0, h * (28 - x[2]), 1 - h, -h * x[0], h * x[1], h * x[0], 1 - (8 / 3) * h,
      ),
    };
  }

  Play.systems = { network, oscillator, wells, latch, lorenz };

  /** The trajectory by a plain loop, T * D numbers. */
  Play.sequential = function (system) {
    const { D, T } = system;
    const states = new Float64Array(T * D);
    let s = system.s0;
    for (let t = 0; t < T; t++) states.set((s = system.step(s, t)), t * D);
    return states;
  };

  /** The average growth of a small difference per step along a trajectory, in nats: the largest Lyapunov exponent. */
  Play.exponent = function (system, states) {
    const { D, T } = system;
    const settle = T / 8;
    let direction = new Float64Array(D).fill(1 / Math.sqrt(D));
    let sum = 0;
    let count = 0;
    for (let t = 1; t < T; t++) {
      const next = new Float64Array(D);
      Play.apply(next, system.jacobian(states.subarray((t - 1) * D, t * D), t), 0, direction, D);
      const norm = Math.hypot(...next);
      direction = next.map((x) => x / norm);
      if (t > settle) {
        sum += Math.log(norm);
        count++;
      }
    }
    return sum / count;
  };
})((globalThis.Play ??= {}));
