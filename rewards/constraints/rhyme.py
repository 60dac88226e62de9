"""Which English words rhyme, judged by spelling.

A pronouncing dictionary would be exact and is 3.6 MB of data; spelling classes decide the frequent
endings and are wrong on exceptions (*love* / *move*). A word's rhyme class is its last vowel sound
and what follows, with spellings of the same sound made equal.
"""

from __future__ import annotations

import re

# Spelled endings of one sound; a spelling with two sounds stands twice.
SOUNDS: dict[str, str] = {
    "ITE": "ight ite yte",
    "AY": "ay eigh ey ae",
    "ATE": "ate ait eight",
    "EE": "ee ea e ie y i",
    "EEN": "een ean ene ine",
    "EED": "eed ead ede",
    "EET": "eet eat ete",
    "IE": "igh ye uy eye ie y",
    "INE": "ine ign yne",
    "IND": "ind ined igned",
    "OH": "o ow oe ough oh",
    "ONE": "one oan own",
    "OLD": "old oled olled",
    "OO": "oo ue ew ou oe",
    "OON": "oon une",
    "OW": "ow ough",
    "OWN": "own oun",
    "OUND": "ound owned",
    "ALL": "all awl aul",
    "AIR": "air are ear ere eir",
    "EAR": "eer ear ere ier",
    "ORE": "ore oor our oar or aur",
    "ER": "er ir ur or ar re",
    "AIN": "ain ane eign ein",
    "AIL": "ail ale eil",
    "AKE": "ake eak",
    "AZE": "aze aise ays ase eighs",
}
WORD = re.compile(r"[A-Za-z']+")


def last_word(line: str) -> str:
    words = WORD.findall(line)
    return words[-1].lower().strip("'") if words else ""


def rhyme_classes(word: str) -> set[str]:
    """The classes a word may belong to: one spelling can have several sounds (*read*, *bow*)."""
    match = re.search(r"[aeiouy]+[^aeiouy]*(?:e[sd]?)?$", word.lower())
    ending = match.group() if match else word.lower()
    return {ending} | {sound for sound, endings in SOUNDS.items() if ending in endings.split()}


def rhymes(first: str, second: str) -> bool:
    """Two different words that share a rhyme class."""
    if not first or not second or first == second:
        return False
    return bool(rhyme_classes(first) & rhyme_classes(second))
