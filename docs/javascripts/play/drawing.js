// The two pictures of the page, on canvases: residuals over time and iteration, and the trajectory.
(function (Play) {
  "use strict";

  const MAGMA = [[252, 253, 191], [254, 159, 109], [222, 73, 104], [140, 41, 129], [59, 15, 112], [0, 0, 4]];
  const DECADES = 12;
  const LEAST_ROWS = 40;

  /** Light for a residual of 1 and more, black for 1e-12 and less. */
  function colour(residual) {
    const depth = -Math.log10(Math.max(residual, 10 ** -DECADES)) / DECADES;
    const x = Math.min(1, Math.max(0, depth)) * (MAGMA.length - 1);
    const i = Math.min(MAGMA.length - 2, Math.floor(x));
    return MAGMA[i].map((c, n) => Math.round(c + (MAGMA[i + 1][n] - c) * (x - i)));
  }

  /** One pixel for each time step (across) and iteration (down); white marks the frontier. */
  Play.drawMap = function (canvas, solve) {
    const { T } = solve.system;
    const height = Math.max(LEAST_ROWS, solve.rows.length);
    [canvas.width, canvas.height] = [T, height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(T, height);
    solve.rows.forEach(({ residual, accepted }, y) => {
      for (let t = 0; t < T; t++) {
        if (Number.isNaN(residual[t])) continue;
        const pixel = t === accepted - 1 ? [255, 255, 255] : colour(residual[t]);
        image.data.set([...pixel, 255], 4 * (y * T + t));
      }
    });
    context.putImageData(image, 0, 0);
  };

  /** What the colours mean. */
  Play.drawScale = function (canvas) {
    [canvas.width, canvas.height] = [120, 1];
    const context = canvas.getContext("2d");
    const image = context.createImageData(120, 1);
    for (let x = 0; x < 120; x++) image.data.set([...colour(10 ** (-x / 10)), 255], 4 * x);
    context.putImageData(image, 0, 0);
  };

  const COLOURS = {
    light: { truth: "#b0b0b0", now: "#0072b2", guess: "#cc79a7", frontier: "#d55e00" },
    dark: { truth: "#808080", now: "#56b4e9", guess: "#cc79a7", frontier: "#e69f00" },
  };

  /** One coordinate over time: the truth thick and grey, the guess dotted, the present iterate, the frontier. */
  Play.drawTrajectory = function (canvas, solve, truth, coordinate, dark) {
    const { D, T } = solve.system;
    const [width, height] = [Math.max(300, canvas.clientWidth), 200];
    const sharp = globalThis.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * sharp, height * sharp];
    const context = canvas.getContext("2d");
    context.scale(sharp, sharp);
    const shades = COLOURS[dark ? "dark" : "light"];
    const [low, high] = range(truth, D, coordinate);
    const margin = 0.3 * (high - low || 1);
    const y = (x) => height * (1 - (clamp(x, low - margin, high + margin) - low + margin) / (high - low + 2 * margin));
    const line = (values, stroke, thick, dash) => {
      context.beginPath();
      Object.assign(context, { strokeStyle: stroke, lineWidth: thick });
      context.setLineDash(dash);
      for (let t = 0; t < T; t++) context.lineTo((t / (T - 1)) * width, y(values[t * D + coordinate]));
      context.stroke();
    };
    line(truth, shades.truth, 5, []);
    line(solve.guess, shades.guess, 1.5, [2, 4]);
    line(solve.states, shades.now, 1.8, []);
    const x = (Math.min(solve.frontier, T - 1) / (T - 1)) * width;
    context.setLineDash([]);
    Object.assign(context, { strokeStyle: shades.frontier, lineWidth: 2 });
    context.strokeRect(x, -2, 0, height + 4);
  };

  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  function range(values, D, coordinate) {
    let [low, high] = [Infinity, -Infinity];
    for (let n = coordinate; n < values.length; n += D) {
      low = Math.min(low, values[n]);
      high = Math.max(high, values[n]);
    }
    return [low, high];
  }
})((globalThis.Play ??= {}));
