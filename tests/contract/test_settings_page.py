"""docs/settings.md says what the settings classes say."""

from tests.contract.settings_page import PAGE, PROGRAMS, page


def test_the_settings_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.contract.settings_page"


def test_every_setting_is_described() -> None:
    undescribed = [
        f"{program} {name}"
        for program, settings in PROGRAMS.items()
        for name, field in settings.model_fields.items()
        if not field.description
    ]
    assert not undescribed
