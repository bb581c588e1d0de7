"""[secrets.NAME] as people write it, and every mistake in it."""

from pathlib import Path

import pytest

from gearcase.box.loading import load_box
from gearcase.box.writing import effective_toml
from gearcase.errors import UsageError


def load(tmp_path, text):
    (tmp_path / "box.toml").write_text(text)
    return load_box(tmp_path / "box.toml").box


def test_it_names_a_variable_and_hosts_and_the_rest_has_defaults(tmp_path):
    (tmp_path / "token").write_text("x" * 20)
    box = load(
        tmp_path,
        '[secrets.github]\nenv = "GITHUB_TOKEN"\nhosts = ["API.github.com", "github.com.:8443"]\nkey_file = "token"\n'
        '[secrets.other]\nenv = "OTHER"\nhosts = ["api.github.com"]\nkeyring = "service/user"\nheaders = ["X-Key"]\n',
    )
    github, other = box.secrets["github"], box.secrets["other"]
    assert github.hosts == ("api.github.com", "github.com:8443") and github.key_file == tmp_path / "token"
    assert "Authorization" in github.headers and other.headers == ("X-Key",)
    (tmp_path / "again.toml").write_text(effective_toml(box))
    assert load_box(Path(tmp_path / "again.toml")).box == box


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('env = "T"\nhosts = ["*.github.com"]', "hosts that are not named"),
        ('env = "T"\nhosts = ["*"]', "hosts that are not named"),
        ('env = "T"\nhosts = ["api.github.com:80"]', "is not HTTPS"),
        ('env = "T"\nhosts = ["tcp://api.github.com:443"]', "is not HTTPS"),
        ('env = "T"\nhosts = ["https://api.github.com"]', "is no rule"),
        ('env = "T"\nhosts = ["10.0.0.5"]', "is an address"),
        ('env = "T"\nhosts = ["github.box"]', "is a name of the box itself"),
        ('env = "T"\nhosts = []', "at least 1"),
        ('env = "T"\nhosts = ["a.example", "A.example:443"]', "twice"),
        ('env = "T-X"\nhosts = ["a.example"]', "env"),
        ('hosts = ["a.example"]', "env"),
        ('env = "T"\nhosts = ["a.example"]\nkey_env = "A"\nkeyring = "b/c"', "name one"),
        ('env = "T"\nhosts = ["a.example"]\nheaders = ["Host"]', "no header for a secret"),
        ('env = "T"\nhosts = ["a.example"]\nheaders = ["A: B"]', "headers"),
        ('env = "T"\nhosts = ["a.example"]\nhots = ["b.example"]', "did you mean `hosts`"),
        ('env = "T"\nhosts = ["a.example"]\nca = "none.pem"', "ca"),
        ('env = "T"\nhosts = ["a.example"]\n[secrets.other]\nenv = "T"\nhosts = ["b.example"]', "variable of an earlier secret"),
        (
            'env = "T"\nhosts = ["a.example"]\n[secrets.b]\nenv = "B"\nhosts = ["a.example"]\nca = "box.toml"',
            "earlier secret for a.example",
        ),
    ],
)
def test_a_mistake_is_told(tmp_path, text, says):
    with pytest.raises(UsageError) as error:
        load(tmp_path, f"[secrets.github]\n{text}\n")
    assert says in error.value.cause
