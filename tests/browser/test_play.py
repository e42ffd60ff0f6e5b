"""The interactive page steps and goes back, draws its residuals, keeps its state in the address, solves as `solve`."""

import pytest
import torch

import lds_iter as li

pytestmark = pytest.mark.browser

ROOT = "document.getElementById('playground')"
CLICK = "document.querySelector(`[data-play='${arguments[0]}']`).click()"
SET = """
const field = document.querySelector(`[data-play='${arguments[0]}']`);
field.value = arguments[1];
field.dispatchEvent(new Event('input'));
"""
PIXEL = """
const map = document.querySelector("[data-play='map']");
return [...map.getContext("2d").getImageData(arguments[0], arguments[1], 1, 1).data]
"""


@pytest.fixture
def play(browser, host):
    def at(query=""):
        browser.open("about:blank")
        browser.open(f"{host}/play.html{query}")
        return browser

    return at


def state(browser, name):
    return browser.run(f"return {ROOT}.dataset['{name}']")


def drawn_lines(browser, most):
    return sum(browser.run(PIXEL, 399, y)[3] > 0 for y in range(most))


def test_steps_forth_and_back(play):
    page = play("?s=network&g=2.5")
    for count in range(4):
        assert state(page, "iterations") == str(count)
        assert drawn_lines(page, 8) == count + 1
        page.run(CLICK, "step")
    accepted = state(page, "accepted")
    page.run(CLICK, "step")
    page.run(CLICK, "back")
    assert (state(page, "iterations"), state(page, "accepted")) == ("4", accepted)
    page.run(CLICK, "reset")
    assert state(page, "iterations") == "0"
    assert page.messages() == []


def test_the_map_is_black_behind_the_frontier_and_bright_ahead(play):
    page = play("?s=network&g=2.5&i=30")
    accepted = int(state(page, "accepted"))
    assert sum(page.run(PIXEL, accepted // 2, 30)[:3]) < 60
    assert sum(page.run(PIXEL, 399, 30)[:3]) > 400


def test_every_system_and_method_runs_to_the_end(play):
    page = play()
    page.prefer(reduced_motion="reduce")  # then `Run` is done at once
    for system in ("network", "oscillator", "wells", "latch", "lorenz"):
        page.run(SET, "system", system)
        for method in ("newton", "quasi", "picard", "jacobi", "kalman", "trust"):
            page.run(SET, "method", method)
            page.run(CLICK, "run")
            assert state(page, "done") == "true", (system, method)
    assert page.messages() == []


def test_it_runs_by_itself(play):
    page = play("?s=network&g=0.6")
    page.run(CLICK, "run")
    page.wait_for(f"{ROOT}.dataset.done === 'true'", "it is solved")
    assert state(page, "iterations") == "4"


def test_keys(play):
    page = play("?s=network&g=2.5")
    page.run(f"{ROOT}.focus()")
    for _ in range(3):
        page.press(" ")
    page.press("\ue012")  # the arrow to the left
    assert state(page, "iterations") == "2"


def test_the_address_holds_the_state(play):
    page = play("?s=oscillator&m=trust&seed=3&i=7")
    link = page.run("return document.querySelector(\"[data-play='link']\").href")
    assert play("#" + link.split("#")[1]).run("return location.hash") == "#" + link.split("#")[1]
    assert (state(page, "iterations"), state(page, "steps")) == ("7", "600")


def test_screen_readers_are_told(play):
    page = play("?s=network&g=0.6&i=4")
    said = page.run("return document.querySelector('#playground [role=status]').innerText")
    assert "Iteration 4" in said
    assert "A loop takes 400 turns; this took 4" in said
    assert page.run("return document.querySelectorAll('.play-numbers tbody tr').length") == 5


def test_it_agrees_with_solve(play):
    page = play("?s=network&g=1&i=400")
    numbers = page.run(
        "const { system, solve } = Play.page;"
        "return ['weight', 'inputs', 's0'].map((n) => [...system[n]]).concat([[...solve.states], solve.iterations])"
    )
    weight, inputs, s0, states = (torch.tensor(part, dtype=torch.float64) for part in numbers[:4])
    weight, inputs = weight.view(16, 16), inputs.view(400, 16)
    solution = li.solve(lambda s, u: torch.tanh(s) @ weight.T + u, s0, inputs)
    assert numbers[4] == int(solution.iterations)
    # Both stop at 1e-10, and this network amplifies a residual a hundred times at most.
    torch.testing.assert_close(states.view(400, 16), solution.states, rtol=1e-7, atol=1e-7)
