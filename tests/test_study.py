"The page of a user study: answered by keyboard in a browser, saved, counted."
import json
import shutil

import numpy as np
import pytest
from test_browser import browser  # noqa: F401 (a fixture)

from live2diff_nb.cli import main
from live2diff_nb.judge.study import count_answers, make_study, read_study, study_clips, wilson, win_rates
from live2diff_nb.video.sinks import open_sink


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Two clips, one of which has a name that an address must quote, of ours and of two others."
    room = tmp_path_factory.mktemp("study")
    for name, level in dict(input=90, ours=120, other=200, third=40).items():
        for clip in ("a", "b #1 100%"):
            with open_sink(room / name / f"{clip}.mp4", 8) as sink:
                for n in range(8): sink.write(np.full((48, 64, 3), level + 4 * n, np.uint8))
    make_study(room)
    return room


@pytest.fixture
def page(browser, folder):  # noqa: F811
    context = browser.new_context()
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto((folder / "study.html").as_uri())
    yield page
    context.close()
    assert page.complaints == []


def press(page, *keys):
    for key in keys: page.keyboard.press(key)


def saved(page, path):
    with page.expect_download() as download: page.keyboard.press("s")
    download.value.save_as(path)
    return json.loads(path.read_text())


def left_wins(folder, count):
    "What `count_answers` must say of so many answers `left`, by the study's own list."
    study, told = read_study(folder), {}
    for n in range(count):
        trial, question = study["trials"][n // 2]["methods"], list(study["questions"])[n % 2]
        other = next(name for name in trial if name != "ours")
        wins, all_ = told.setdefault(other, {}).get(question, (0, 0))
        told[other][question] = wins + (trial[0] == "ours"), all_ + 1
    return told


@pytest.mark.browser
def test_three_questions_by_keyboard(page, folder, tmp_path):
    assert "keeps better" in page.locator("#question").inner_text()
    press(page, "1")
    assert "smoother" in page.locator("#question").inner_text()
    press(page, "ArrowLeft", "2")
    said = saved(page, tmp_path / "answers.json")
    assert [answer["answer"] for answer in said["answers"]] == ["left", "left", "right"]
    assert page.locator("#progress").inner_text().startswith("2 of 4 pairs, 3 of 8 questions")
    counts, trials = count_answers(folder, [tmp_path / "answers.json"]), read_study(folder)["trials"]
    told = {}
    for answer in said["answers"]:
        pair = trials[answer["trial"]]["methods"]
        chosen, other = pair[answer["answer"] == "right"], next(name for name in pair if name != "ours")
        wins, all_ = told.setdefault(other, {}).get(answer["question"], (0, 0))
        told[other][answer["question"]] = wins + (chosen == "ours"), all_ + 1
    assert counts == told and sum(all_ for found in counts.values() for _, all_ in found.values()) == 3


@pytest.mark.browser
def test_films_play_together_and_halt(page):
    page.wait_for_function("films.every(f => f.readyState >= 2 && !f.paused && f.videoWidth === 64)", timeout=10_000)
    sources = page.evaluate("films.map(f => decodeURI(f.currentSrc).split('/').slice(-2))")
    assert sources[0][0] == "input" and len({clip for _, clip in sources}) == 1
    assert "ours" in {method for method, _ in sources[1:]}
    press(page, " ")
    assert page.evaluate("films.every(f => f.paused)")
    press(page, "r")
    page.wait_for_function("films.every(f => !f.paused)", timeout=10_000)
    assert page.locator("#trouble").inner_text() == ""


@pytest.mark.browser
def test_answers_outlive_the_page_and_can_be_taken_back(page, folder, tmp_path):
    press(page, "1", "1", "1", "Backspace")
    page.reload()
    assert "2 of 8 questions" in page.locator("#progress").inner_text()
    press(page, *"111111", *"11")                                               # two more than there are questions
    assert page.locator("#done").is_visible() and page.locator("main").is_hidden()
    said = saved(page, tmp_path / "all.json")
    assert len(said["answers"]) == 8 and count_answers(folder, [tmp_path / "all.json"]) == left_wins(folder, 8)


@pytest.mark.browser
def test_the_next_participant_begins_anew(page, folder, tmp_path):
    press(page, "1", "2")
    first = saved(page, tmp_path / "first.json")
    page.on("dialog", lambda dialog: dialog.accept())
    with page.expect_navigation(): page.get_by_role("button", name="Begin anew").click()
    assert "0 of 8 questions" in page.locator("#progress").inner_text()
    press(page, "2")
    second = saved(page, tmp_path / "second.json")
    assert second["participant"] != first["participant"] and len(second["answers"]) == 1
    counts = count_answers(folder, [tmp_path / "first.json", tmp_path / "second.json"])
    assert sum(all_ for found in counts.values() for _, all_ in found.values()) == 3


@pytest.mark.browser
def test_without_storage_the_page_works(browser, folder, tmp_path):  # noqa: F811
    page = browser.new_page()
    page.add_init_script("""Object.defineProperty(window, 'localStorage',
        { get() { throw new DOMException('denied', 'SecurityError') } })""")
    page.goto((folder / "study.html").as_uri())
    page.get_by_role("button", name="2: right").click()
    press(page, "2")
    assert len(saved(page, tmp_path / "kept.json")["answers"]) == 2
    page.close()


@pytest.mark.browser
def test_a_film_that_cannot_be_played_is_named(browser, folder, tmp_path):  # noqa: F811
    room = shutil.copytree(folder, tmp_path / "room")
    for path in room.glob("third/*.mp4"): path.write_bytes(b"no film")
    page = browser.new_page()
    page.goto(make_study(room).as_uri())
    press(page, *["1", "1"] * next(n for n, t in enumerate(read_study(room)["trials"]) if "third" in t["methods"]))
    page.get_by_text("cannot play third/").wait_for(timeout=10_000)
    page.close()


# ---- without a browser ---------------------------------------------------------------------------------------------
def answers_of(folder, name, choose, tmp_path):
    study = read_study(folder)
    answers = [dict(trial=n, question=question, answer=choose(trial["methods"]))
               for n, trial in enumerate(study["trials"]) for question in study["questions"]]
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(dict(study=study["study"], participant=name, answers=answers)))
    return path


def test_the_command_makes_and_counts(folder, tmp_path, capsys):
    room = shutil.copytree(folder, tmp_path / "room")
    (room / "study.html").unlink()
    assert main(["study", str(room)]) == 0 and (room / "study.html").exists()
    ours = lambda pair: ("left", "right")[pair.index("ours")]
    fan, foe = answers_of(room, "fan", ours, tmp_path), answers_of(room, "foe", lambda pair: "left", tmp_path)
    assert main(["study", str(room), "--count", str(fan)]) == 0
    least = wilson(2, 2)[0]
    assert f"| other | 100% ({least:.0%} to 100%) of 2 | 100%" in capsys.readouterr().out
    both = count_answers(room, [fan, foe, fan])
    assert all(all_ == 4 for found in both.values() for _, all_ in found.values())
    assert win_rates(both).count("\n") == 3


@pytest.mark.parametrize("change, said", [
    (lambda told: told.update(study="0" * 16), "answers another study"),
    (lambda told: told.pop("answers"), "is not a file of answers"),
    (lambda told: told["answers"].append(dict(trial=99, question="structure", answer="left")), "the page cannot give"),
    (lambda told: told["answers"].append(dict(trial=0, question="structure", answer="both")), "the page cannot give"),
    (lambda told: told["answers"].append("left"), "the page cannot give")])
def test_a_strange_file_is_refused_in_one_sentence(folder, tmp_path, capsys, change, said):
    path = answers_of(folder, "one", lambda pair: "left", tmp_path)
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    assert main(["study", str(folder), "--count", str(path)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and str(path) in error and error.count("\n") == 0


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00", '"text"'])
def test_what_is_no_answers_at_all(folder, tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="is not a file of answers"): count_answers(folder, [tmp_path / "x.json"])


def test_another_film_is_another_study(folder, tmp_path):
    room = shutil.copytree(folder, tmp_path / "room")
    path = answers_of(room, "one", lambda pair: "left", tmp_path)
    shutil.copy(room / "other/a.mp4", room / "third/a.mp4")
    make_study(room)
    with pytest.raises(ValueError, match="another study"): count_answers(room, [path])


def test_a_folder_that_lacks_something(folder, tmp_path):
    room = shutil.copytree(folder, tmp_path / "room")
    (room / "other/a.mp4").unlink()
    with pytest.raises(ValueError, match=r"other.a\.mp4 is missing"): study_clips(room)
    shutil.rmtree(room / "other")
    shutil.rmtree(room / "third")
    with pytest.raises(ValueError, match="no method beside ours"): study_clips(room)
    with pytest.raises(ValueError, match="holds no mp4"): make_study(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="make the page first"): count_answers(tmp_path, [])
