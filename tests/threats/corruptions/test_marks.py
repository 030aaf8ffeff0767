"""Stain deposits, bubbles, black corners and letters: how many, how large, where."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from threats import corruptions
from threats.corruptions import letters

WHITE = jnp.ones((24, 224, 224, 1))


def test_stain_deposits_are_dark_blots_of_the_number_named():
    stained = np.asarray(corruptions.stain_deposit(jax.random.key(0), WHITE, most=1))[..., 0]
    for image in stained:
        _, blots = ndimage.label(image < 0.5)
        assert blots == 1
        area = (image < 0.5).sum()
        # A mean radius of 8 to 20 pixels, more or less with the outline's waves.
        assert np.pi * 8**2 * 0.7 < area < np.pi * 20**2 * 2
    assert stained.min() == pytest.approx(0.1)
    many = np.asarray(corruptions.stain_deposit(jax.random.key(0), WHITE, most=5))[..., 0]
    assert (many <= stained + 1e-6).all(), "a higher severity adds blots to the same ones"
    counts = [ndimage.label(image < 0.5)[1] for image in many]
    assert min(counts) >= 1
    assert max(counts) <= 5
    assert 2 < np.mean(counts) < 3.5, "1 to 5, and some overlap"


def test_bubbles_are_half_transparent_disks_with_a_brighter_rim():
    black = 1 - WHITE
    bubbled = np.asarray(corruptions.bubble(jax.random.key(1), black, largest=17, most=25))[..., 0]
    values, counts = np.unique(np.round(bubbled * 255).astype(int), return_counts=True)
    most = set(values[np.argsort(counts)[-3:]])
    assert most == {0, 100, 130}
    np.testing.assert_allclose(bubbled.max(), 130 / 255, atol=1e-5)
    # 7 to 25 of a mean area pi (mean of r^2, r uniform in 3..17, and the rim), less overlaps.
    area = 16 * np.pi * ((19**3 - 5**3) / (3 * 14))
    np.testing.assert_allclose((bubbled > 0.1).sum(axis=(1, 2)).mean(), area, rtol=0.25)


@pytest.mark.parametrize("reach", [1.1, 1.0, 0.9])
def test_black_corner_agrees_with_opencv(reach):
    """But for the pixels on the circle, which both draw by their own rule."""
    shown = np.asarray(corruptions.black_corner(WHITE[0], reach=reach))[..., 0]
    expected = np.zeros((224, 224), np.uint8)
    cv2.circle(expected, (112, 112), int(112 * reach), 1, thickness=-1)
    assert np.mean(shown != expected) < 0.005
    assert set(np.unique(shown)) == {0.0, 1.0}


def test_letters_are_written_as_drawn():
    assert letters.FONT.shape == (26, 5, 4)
    assert letters.FONT[..., 3].sum() == 0
    assert len({letter.tobytes() for letter in letters.FONT}) == 26
    assert letters.FONT[ord("t") - ord("a")].astype(int).tolist() == [[1, 1, 1, 0], *[[0, 1, 0, 0]] * 4]


def test_words_are_small_at_224_pixels_and_stay_visible_at_28():
    large = np.asarray(corruptions.characters(jax.random.key(2), WHITE, words=1, letters=6, scale=0.14))
    written = (large < 0.999).any(axis=-1)
    heights = [np.ptp(np.argwhere(image)[:, 0]) + 1 for image in written if image.any()]
    # Five cells of 19 / 4 x 0.14 pixels.
    assert np.median(heights) in (3, 4, 5)
    assert max(heights) <= 5
    small = np.asarray(corruptions.characters(jax.random.key(2), WHITE[:, :28, :28], words=1, letters=6, scale=0.14))
    assert (np.abs(small - 1).max(axis=(1, 2, 3)) > 0.05).mean() > 0.8


def test_letters_of_a_word_and_words_of_an_image_are_uniform():
    """Columns that a word covers, on images large enough to keep cells apart: 3 to 8 letters of 4 cells."""
    cover = jax.vmap(lambda key: letters._word(key, jnp.ones((64, 448, 1)), 8, 4.0))
    words = np.asarray(cover(jax.random.split(jax.random.key(3), 64)))
    assert words.min() >= 0
    assert words.max() == 1
    inked = (words > 0).sum(axis=(1, 2))
    assert stats.variation(inked) > 0.2, "words differ in length and size"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("stain_deposit", {"most": 0}, "most must be .* got 0"),
        ("bubble", {"largest": 2, "most": 10}, "largest must be .* got 2"),
        ("bubble", {"largest": 7, "most": 3}, "most must be .* got 3"),
        ("characters", {"words": 1, "letters": 2, "scale": 0.2}, "letters must be .* got 2"),
    ],
)
def test_refuses_parameters(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(corruptions, name)(jax.random.key(0), WHITE[:, :28, :28], **options)
    with pytest.raises(ValueError, match=r"reach must be .* got -1"):
        corruptions.black_corner(WHITE, reach=-1)
