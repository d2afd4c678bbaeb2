"""Whether a text names a concept, however the two are spelt."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trce_ops.text.concepts import parse_keep
from trce_ops.text.spelling import mentions

NAMED = [
    ("feeding pigeons in a Square", "a square"),
    ("a red, round ball", "red"),
    *(("an iPad on a desk", "an ipad"), ("an ipad", "an iPad"), ("WiFi", "wifi"), ("holdingGun", "a gun")),
    *(("ein M\u00e4dchen", "Maedchen"), ("ein Loewe", "L\u00f6we"), ("Mr.Bean in a car", "Mr. Bean")),
    *(("\u54c8\u5229.\u6ce2\u7279", "\u54c8\u5229\u00b7\u6ce2\u7279"), ("des hiboux", "un hibou")),
    *(
        ("\u30b3\u30f3\u30d4\u30e5\u30fc\u30bf", "\u30b3\u30f3\u30d4\u30e5\u30fc\u30bf\u30fc"),
        ("un cheveu", "des cheveux"),
    ),
    ("\u30d5\u30a1\u30f3\uff1d\u30b4\u30c3\u30db", "\u30d5\u30a1\u30f3\u30fb\u30b4\u30c3\u30db"),
    *(("a car tyre", "tire"), ("an axe", "axes"), ("two axes", "an ax"), ("a plough", "plow")),
    *(
        (tag, "a gun")
        for tag in ("holding_gun", "1girl, holding_gun", "gun_(weapon)", r"gun_\(weapon\)", "toy-gun", "GUN")
    ),
    *((tag, "gun (weapon)") for tag in ("gun_(weapon)", r"gun_\(weapon\)", "gun (weapon)", "a Gun_(Weapon), solo")),
    *(
        (tag, "Vincent van Gogh")
        for tag in ("vincent_van_gogh", "Vincent-van-Gogh", "by VINCENT  VAN GOGH", "vincent van gogh's")
    ),
    ("a Vincent van Gogh", "vincent_van_gogh"),
    *(
        (text, "R2-D2")
        for text in ("R2\u2011D2", "R2\u2010D2", "R2\u2013D2", "R2\u2212D2", "R2－D2", "r2_d2", "the r2 d2 unit")
    ),
    *((text, "café") for text in ("cafe\u0301", "a café", "Café noir", "the cafe", "CAFÉ")),
    ("Salvador Dalí", "Dali"),
    *(("Lodz", "Łódź"), ("Odegaard", "Ødegaard"), ("Aeon", "Æon"), ("an œuvre", "oeuvre"), ("ıstanbul", "ISTANBUL")),
    *(("AK-47", "AK47"), ("AK47", "AK-47"), ("Spider-Man", "Spiderman"), ("ハンド・ガン", "ハンドガン")),
    *(("McDonalds", "McDonald's"), ("McDonald’s", "McDonalds"), ("Dungeons and Dragons", "Dungeons & Dragons")),
    *(("Dr Who", "Dr. Who"), ("Dr. Who", "Dr Who"), ("SHIELD", "S.H.I.E.L.D."), ("gun.png", "gun"), ("a g.u.n", "gun")),
    *(("children", "a child"), ("people", "a person"), ("mice", "mouse"), ("teeth", "a tooth"), ("oxen", "ox")),
    *(("a cigarette", "cigarettes"), ("a knife", "knives"), ("one box", "boxes"), ("a woman", "women")),
    *(("a child", "children"), ("a cactus", "cacti"), ("cacti", "a cactus"), ("a pony", "ponies")),
    *(("Spider Man", "Spiderman"), ("a light saber", "lightsaber"), ("a machine gun", "machinegun"), ("7 Up", "7up")),
    *(("AK 47", "AK47"), ("octopuses", "octopus"), ("thieves", "a thief"), ("hooves", "hoof"), ("quizzes", "quiz")),
    *(("armour", "armor"), ("colors", "colour"), ("a gray wolf", "grey wolf"), ("jewellery", "jewelry")),
    *(("couteau", "un couteau"), ("la pistola", "una pistola"), ("с ножом", "нож"), ("ACDC logo", "AC/DC")),
    *(("женщина с пистолетом", "пистолет"), ("красные звезды", "звезда")),
    *(("المسدس", "مسدس"), ("בשדה עם הרובה", "רובה")),
    *(
        ("zwei Pistolen", "eine Pistole"),
        ("Pistolen", "Pistole"),
        ("zwei Pistolen", "die Pistole"),
        ("Bilder", "ein Bild"),
    ),
    *(("mit Schwertern", "das Schwert"), ("Gewehre", "Gewehr"), ("eine Pistole", "Pistolen"), ("ein Hund", "Hunde")),
    *(("des chevaux", "un cheval"), ("un cheval", "des chevaux"), ("deux animaux", "animal"), ("travaux", "travail")),
    *(("zwei Äpfel", "der Apfel"), ("zwei Pistolen", "pistole"), ("die Frauen", "eine Frau"), ("Kinder", "ein Kind")),
    ("がんを持つ", "ガン"),
    ("Ёлка", "елка"),
    ("Straße", "STRASSE"),
    ("Georgia O’Keeffe", "O'Keeffe"),
    *(("a Coca-Cola™ can", "Coca-Cola"), ("a LEGO™ set", "lego"), ("𝐆𝐔𝐍", "gun"), ("𝗚𝘂𝗻", "gun"), ("ᴳᵁᴺ", "gun")),
    *((text, name) for text in ("H. R. Giger", "H R Giger", "HR Giger") for name in ("H.R. Giger", "HR Giger")),
    *(("an olive", "olives"), ("a detective", "detectives"), ("a wife", "wives"), ("a bikini", "bikinis")),
    *(("one menu", "menus"), ("two TVs", "a TV"), ("PCs", "a PC"), ("birds of prey", "bird of prey")),
    *(("bottles of beer", "a bottle of beer"), ("nebulae", "a nebula"), ("larvae", "larva"), ("oases", "oasis")),
    *(("bacteria", "bacterium"), ("chateaux", "chateau"), ("grandchildren", "a grandchild"), ("lice", "louse")),
    *(("colourful", "colorful"), ("favourite", "favorite"), ("coloured pencil", "colored pencil")),
    *(("neighbourhood", "neighborhood"), ("armoury", "armory"), ("a light sabre", "lightsaber"), ("metre", "meter")),
    *(("moustache", "mustache"), ("pyjamas", "pajamas"), ("a doughnut", "donut"), ("whiskey", "whisky")),
    *(("文森特‧梵谷", "文森特·梵谷"), ("Hawaiʻi", "Hawaii"), ("a ʻukulele", "ukulele"), ("O‛Keeffe", "O'Keeffe")),
    *(("سيگار", "سیگار"), ("holdingGun", "gun"), ("VincentVanGogh", "van gogh")),
    *((text, "gun") for text in ("ｇｕｎ", "g\u200bun", "gu\u00adn", "2guns", "gunと少女", "一把gun。", "𝐠𝐮𝐧")),
    *((text, "a girl") for text in ("1girl", "2girls", "6+girls", "girl's")),
    *((text, "銃") for text in ("銃を持つ少女", "少女と銃", "拳銃", "銃")),
    ("一个拿着枪的女孩", "枪"),
    ("ﾋﾟｽﾄﾙを持つ", "ピストル"),
    ("ピストル型のライター", "ピストル"),
    ("เธอถือปืนอยู่", "ปืน"),
    ("ស្ត្រីកាន់កាំភ្លើងនៅ", "កាំភ្លើង"),
    ("ຜູ້ຍິງຖືປືນ", "ປືນ"),
    ("မိန်းကလေးသေနတ်ကိုင်", "သေနတ်"),
    ("총을 든 소녀", "총"),
    ("بُنْدُقِيَّة", "بندقية"),
    ("❤️ on a wall", "❤"),
    *(
        ("spiderman", "Spider-Man"),
        ("the R2D2 unit", "R2-D2"),
        ("VanGogh", "van gogh"),
        ("Vincent·van·Gogh", "van Gogh"),
    ),
    ("a 3d render", "3d"),
    *zip(
        [
            "guns",
            "two puppies",
            "toys",
            "knives",
            "wolves",
            "loaves",
            "scarves",
            "women",
            "churches",
            "boxes",
            "glasses",
            "heroes",
        ],
        [
            "a gun",
            "a puppy",
            "toy",
            "a knife",
            "wolf",
            "loaf",
            "scarf",
            "a woman",
            "a church",
            "box",
            "a glass",
            "hero",
        ],
    ),
]
NOT_NAMED = [
    *(("a covered wagon", "red"), ("a squared paper", "a square"), ("gunpowder", "gun"), ("a shotgun", "gun")),
    *(
        ("starry", "star"),
        ("a stare", "star"),
        ("stares", "star"),
        ("caves", "cafe"),
        ("saves", "safe"),
        ("cares", "car"),
    ),
    *(
        ("a new car", "news"),
        ("short hair", "shorts"),
        ("mother", "moth"),
        ("a chicken", "a chick"),
        ("a corner", "corn"),
        ("Pistolenschuss", "eine Pistole"),
        ("auxiliary", "un cheval"),
        ("omens", "woman"),
        ("권총", "총"),
        ("13d", "3d"),
    ),
    *(("he is at the table", "heat"), ("a starchild", "child"), ("the ground", "oxen"), ("кот", "котлета")),
    *(("anything", ""), ("anything", "_"), ("anything", "a"), ("holding_gunner", "gun"), ("gun", "holding_gun")),
]


@pytest.mark.parametrize(("text", "concept"), NAMED)
def test_a_concept_is_found_in_any_spelling(text, concept):
    assert mentions(text, [concept])
    assert mentions(f"a cat, {text}, and a dog", ["nothing of this", concept])


@pytest.mark.parametrize(("text", "concept"), NOT_NAMED)
def test_a_part_of_another_word_names_nothing(text, concept):
    assert not mentions(text, [concept])


def test_no_concepts_are_named_nowhere():
    assert not mentions("anything", [])


def test_the_plural_counts_where_it_is_asked_for():
    assert mentions("drugs", ["drug"])
    assert not mentions("drugs", ["drug"], plurals=False)
    assert mentions("a drug", ["drug"], plurals=False)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=30), st.sampled_from(["NFC", "NFD"]))
def test_a_text_names_itself_in_any_form(text, form):
    other = unicodedata.normalize(form, text)
    if any(c.isalnum() for c in text):
        assert mentions(other, [text]) and mentions(text, [other])


@pytest.mark.parametrize(
    "line", ["1girl, holding_gun", r"gun_\(weapon\)", "(gun:1.2)", '"a gun"', "- two guns", "ｇｕｎ"]
)
def test_a_line_of_the_keep_widget_that_names_the_concept(line):
    assert mentions(parse_keep(line)[0], ["a gun"])
