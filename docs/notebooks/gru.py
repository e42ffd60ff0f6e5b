# %% [markdown]
# # A GRU on a long series
#
# Train a GRU on a series of 4,000 steps. `li.nn.GRU` takes the place of `torch.nn.GRU` and of its
# weights: first you check that both compute the same, then you train, and then you look at how a
# parallel solve finds the states.

# %%
import importlib.util
import subprocess
import sys

if (
    importlib.util.find_spec("lds_iter") is None
):  # opened elsewhere, as in Colab
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "git+{{ repo_url }}",
        ],
        check=True,
    )

# %%
import matplotlib.pyplot as plt
import torch

import lds_iter as li

torch.set_num_threads(1)
torch.manual_seed(0)
T = 4000

# %% [markdown]
# ## The data
#
# A sensor drifts, and its reading is noisy. The network sees the reading at every step, and every
# 500 steps the true value, held until the next one. It is to tell the true value at every step.
# Memory is what it needs for that.

# %%
time = torch.arange(T + 2000) / 700
truth = torch.sin(2.1 * time) + 0.5 * torch.sin(5.3 * time + 1)
drift = 0.3 * torch.randn(len(time)).cumsum(0) / 10
reading = truth + drift + 0.1 * torch.randn(len(time))
# How far the reading is off, as it was when the truth was last known
offset = (truth - reading)[::500].repeat_interleave(500)[: len(time)]
x = torch.stack([reading, offset], -1).unsqueeze(1)  # time, batch, features
y = truth.unsqueeze(-1)

figure, axes = plt.subplots(figsize=(8, 2.4), layout="constrained")
axes.plot(reading[:T], label="reading")
axes.plot(truth[:T], label="truth")
axes.set(xlabel="time step")
axes.legend(loc="upper right", ncols=2)
plt.show()

# %% [markdown]
# ## The same layer
#
# The constructor, the parameters and the results are those of `torch.nn.GRU`.

# %%
theirs = torch.nn.GRU(2, 16)
ours = li.nn.GRU(2, 16)
ours.load_state_dict(theirs.state_dict())
with torch.no_grad():
    print(
        "the same states to 1e-5:",
        torch.allclose(ours(x)[0], theirs(x)[0], atol=1e-5),
    )
print("computed by", ours.last_plan.route.name)

# %% [markdown]
# On a CPU the layer takes its steps in compiled code; on a GPU `Auto` compares that with a
# parallel solve. `%time ours(x)` and `%time theirs(x)` in cells of their own show the difference
# on your machine.
#
# ## Training
#
# Nothing in this function knows which layer it trains.


# %%
def train(layer, steps):
    torch.manual_seed(1)
    head = torch.nn.Linear(16, 1)
    optimizer = torch.optim.Adam(
        [*layer.parameters(), *head.parameters()], lr=0.01
    )
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        states, _ = layer(x[:T])
        loss = (head(states.squeeze(1)) - y[:T]).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return head, losses


_, by_torch = train(theirs, 2)
head, losses = train(ours, 60)
print(
    "the first losses agree to 1e-4:",
    torch.allclose(torch.tensor(losses[:2]), torch.tensor(by_torch), rtol=1e-4),
)
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")

# %%
with torch.no_grad():
    states, _ = ours(x)
    told = head(states.squeeze(1)).squeeze(-1)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 2.6), layout="constrained"
)
left.semilogy(losses)
left.set(title="loss", xlabel="step of training")
right.plot(reading[T:], label="reading")
right.plot(truth[T:], label="truth")
right.plot(told[T:], label="network")
right.set(title="2,000 steps that it has not learned from", xlabel="time step")
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## All time steps at once
#
# With a `method` the layer solves for all states together, by iteration. The result is the same;
# the number of iterations says how much the network remembers. Training has given it memory, so a
# fresh layer takes fewer. `TrustRegion` is the method for trained networks: it shortens updates
# that are too long to be true.

# %%
method = li.TrustRegion(li.Newton())
for name, layer in ("fresh", torch.nn.GRU(2, 16)), ("trained", ours):
    solver = li.nn.GRU(2, 16, method=method)
    solver.load_state_dict(layer.state_dict())
    with torch.no_grad():
        solver(x)
    count = int(solver.last_solution[0].iterations.max())
    print(f"{name}: {count} iterations for {len(x):,} steps")

# %%
recurrence = li.nn.GRURecurrence.from_module(ours)
with torch.no_grad():
    solution = li.solve(
        recurrence,
        torch.zeros(16),
        recurrence.inputs(x[:, 0]),
        method,
        record=True,
    )
figure, axes = plt.subplots(figsize=(8, 2.4), layout="constrained")
residual = solution.history.residual_map.clamp(1e-7, 1).log10()
image = axes.imshow(
    residual, aspect="auto", cmap="magma", interpolation="nearest"
)
axes.set(xlabel="time step", ylabel="iteration")
figure.colorbar(image, label="residual, power of ten")
plt.show()

# %% [markdown]
# ## Exercises
#
# 1. Replace `method` by `li.Newton()`, and by `li.TrustRegion(li.QuasiNewton())`. Which takes the fewest iterations?
# 2. Train for 300 steps. Does the count rise?
# 3. Set `T = 100_000`, and `%time` one step of `train` for each of both layers.
