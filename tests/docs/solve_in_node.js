// Solves the cases that stand on standard input, as the page does, and prints counts and arrays as JSON.
const fs = require("fs");
const path = require("path");

const folder = path.join(__dirname, "../../docs/javascripts/play");
for (const name of ["algebra", "systems", "methods", "solver"]) require(path.join(folder, `${name}.js`));

const cases = JSON.parse(fs.readFileSync(0, "utf8"));
const solved = cases.map(({ system, gain, seed, method, damping, window }) => {
  const made = Play.systems[system]({ gain, seed });
  const solve = new Play.Solve(made, Play.methods[method](damping), { window: window ?? made.T }).run();
  const arrays = Object.fromEntries(
    Object.entries(made)
      .filter(([, value]) => typeof value !== "function")
      .map(([name, value]) => [name, value instanceof Float64Array ? Array.from(value) : value]),
  );
  return { ...arrays, iterations: solve.iterations, states: Array.from(solve.states), loop: Array.from(Play.sequential(made)) };
});
console.log(JSON.stringify(solved));
