"""The exercises of the chapters: the solution passes the learner's own check, and a wrong answer does not.

Their cells run with the names of the chapter's module alone, so no page has to be run. What the site asks and grades
itself is compared with the same functions.
"""
import contextlib
import importlib
import io
import random
import re
from functools import cache

import pytest
from test_browser import browser  # noqa: F401 (a fixture)
from test_figures import module, opened
from test_house import ROAD

from live2diff_nb.figures.exercises import QUIZZES, Exercise
from pages import NBS, notebook

CELL = re.compile(r"#\| exercise: (.+)\n")
NAMES = ["imports", *(name for n in (1, 2, 3) for name in (f"{n}", f"{n} solution"))]
QUIZ_OF = dict(zip(QUIZZES, ("engine/masks", "engine/kvcache", "engine/lcm")))


def cells(chapter):
    "The exercise cells of a page, by name, in order."
    found = [(CELL.match(cell.source), cell) for cell in notebook(NBS / f"{chapter}.ipynb").cells]
    return {match[1]: cell for match, cell in found if match}


@cache
def worked(chapter):
    "`(what each cell prints, the exercises)`, the cells run in order."
    names, printed, exercises = dict(vars(importlib.import_module(f"live2diff_nb.{chapter.replace('/', '.')}"))), {}, []
    for name, cell in cells(chapter).items():
        before = {id(value) for value in names.values()}
        with contextlib.redirect_stdout(io.StringIO()) as out: exec(compile(cell.source, chapter, "exec"), names)
        printed[name] = out.getvalue()
        exercises += [new for new in names.values() if isinstance(new, Exercise) and id(new) not in before]
    return printed, exercises


@pytest.mark.parametrize("chapter", ROAD)
def test_three_exercises_end_a_chapter(chapter):
    assert list(cells(chapter)) == NAMES
    headings = [cell.source for cell in notebook(NBS / f"{chapter}.ipynb").cells if cell.source.startswith("## ")]
    assert headings[-2].startswith("## Exercises")
    for n in ("1", "2", "3"):
        stub, solution = cells(chapter)[n].source, cells(chapter)[f"{n} solution"].source
        name, = re.findall(r"^def (\w+)\(.*\): \.\.\.", stub, re.M)
        assert f"def {name}(" in solution and "#| code-fold: true" in solution


@pytest.mark.parametrize("chapter", ROAD)
def test_the_check_accepts_the_solution_and_refuses_a_wrong_answer(chapter):
    printed, exercises = worked(chapter)
    assert len(exercises) == 3
    for n in ("1", "2", "3"):
        assert printed[n] == "Not answered yet; hint=True gives a hint.\n"
        right, wrong = printed[f"{n} solution"].splitlines()[:2]
        assert right == "Right." and re.match(r"Not yet\. \w+\(.*\): .+\.", wrong), (right, wrong)
    for exercise in exercises: assert len(exercise.hint.split()) >= 4 and exercise.fault(lambda *inputs: "?")


@pytest.mark.parametrize("chapter", ROAD)
def test_the_page_shows_what_the_cells_print(chapter):
    for name, cell in cells(chapter).items():
        saved = "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
        assert saved == worked(chapter)[0][name], f"{chapter}, exercise {name}: run the page again"


# ---- on the site ---------------------------------------------------------------------------------------------------
@pytest.fixture
def page(browser):  # noqa: F811
    page = browser.new_page()
    module(page, "quiz.js", "QUESTIONS, grade, valueOf")
    page.wait_for_function("typeof window.grade === 'function'")   # a module may run after its tag is there
    yield page
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("chapter, number", [(chapter, number) for chapter in QUIZZES for number in range(3)])
def test_the_page_grades_as_the_chapter(page, chapter, number):
    "100 questions, each with the right answer or one that is a little or much off."
    chance, ours = random.Random(number), worked(QUIZ_OF[chapter])[1][number].ours
    asked = page.evaluate(f"Array.from({{length: 100}}, () => QUESTIONS.{chapter}[{number}].ask())")
    right = [float(ours(*inputs)) for inputs in asked]
    typed = [value + chance.choice((0, 0, 0, 1, -1, 0.1, 7)) for value in right]
    graded = page.evaluate(f"all => all.map(([asked, typed]) => grade('{chapter}', {number}, asked, String(typed)))",
                           list(zip(asked, typed)))
    wrong = [case for case in zip(asked, right, typed, graded) if case[3]["right"] != (abs(case[1] - case[2]) < 0.01)]
    assert not wrong, wrong[:3]
    assert all(one["say"] == "Right." if one["right"] else one["say"].startswith("Not yet. ") for one in graded)


@pytest.mark.browser
def test_what_can_be_typed(page):
    typed = {"8 + 23 % 8": 15, " 0.5 ": 0.5, "(1 - 0.64) ** 0.5": 0.6, "": None, "seven": None, "alert(1)": None,
             "1 +": None, "1 / 0": None, "()": None, "-3": -3}
    assert page.evaluate("all => all.map(valueOf)", list(typed)) == [
        value if value is None else pytest.approx(value) for value in typed.values()]


@pytest.mark.browser
@pytest.mark.parametrize("chapter, width", [("masks", 1400), ("ring", 420), ("schedule", 420)])
def test_answered_on_the_site(browser, site, chapter, width):  # noqa: F811
    page, figure, complaints, requested = opened(browser, site, QUIZ_OF[chapter], "quiz", width)
    assert figure.locator("img").count() == 0 and figure.locator(".question").count() == 3
    for number in range(3):
        box, ours = figure.locator(".question").nth(number), worked(QUIZ_OF[chapter])[1][number].ours
        answer, said = box.get_by_label(f"answer {number + 1}"), lambda: box.locator(".say").inner_text()
        right = float(ours(*box.evaluate("box => JSON.parse(box.dataset.asked)")))
        answer.fill(str(right + 1000))
        answer.press("Enter")
        assert said().startswith("Not yet. ")
        box.get_by_role("button", name="hint").click()
        assert len(said()) > 20 and not said().startswith("Not yet")
        answer.fill(f"{right - 3} + 3")
        box.get_by_role("button", name="check").click()
        assert said() == "✓ Right." and box.get_attribute("data-right") == "true"
        box.get_by_role("button", name="other numbers").click()
        assert said() == "" and answer.input_value() == "" and box.get_attribute("data-right") is None
    size = figure.evaluate("root => [root.scrollWidth - root.clientWidth, root.getBoundingClientRect().right]")
    assert size[0] <= 0 and size[1] <= width
    assert complaints == [] and all(url.startswith(("file:", "data:", "blob:")) for url in requested)
    page.context.close()
