"""Orders to replace or to remove something, in the languages of the pack: they are no names of concepts.

Only forms that names seldom have: with the verb and, where the verb alone may be part of a name, with its particles.
"""

from __future__ import annotations

ENGLISH = (
    r"^(?:please\s+)?(?:replace|erase|remove|delete|unlearn|forget)\s+\S",
    r"\s(?:instead of|rather than|becomes|(?:is|are|gets|(?:should|must|will) be) (?:replaced|swapped))\s",
    r"^(?:turn|change|convert|swap|transform)\s.*\s(?:in)?to\s|^(?:an?|the)\s.*\sto\s(?:an?|the)\s",
)
GERMAN = (
    r"^(?:bitte\s+)?(?:ersetzen?|entfernen?|lösche|tausche|verwandle)\s+\S",
    r"\s(?:durch|gegen|mit)\s.*\s(?:ersetzen|ersetzt|austauschen|ausgetauscht|tauschen)\b",
    r"\s(?:statt|anstatt|anstelle)\s|\swird\s(?:zu|durch)\s|\s(?:ersetzen|entfernen)$",
)
FRENCH = (
    r"^(?:remplace[rz]?|efface[rz]?|supprime[rz]?|enlève|enlever|enlevez|retire[rz]?)\s+\S",
    r"\s(?:au lieu|à la place)\sd(?:e\s|['’]|es\s|u\s)|\sdevient\s|\s(?:est|doit être)\sremplacée?\s",
    r"^(?:transforme[rz]?|change[rz]?)\s.*\sen\s",
)
CHINESE = (
    r"(?:替换|替換|更换|更換|换|換|改)(?:成|为|為)",
    r"^[请請]?[把将將].+(?:变成|變成|变为|變為|删除|刪除|移除|擦除|去除|去掉|抹去|消除)",
    r"^[请請]?[用以].+(?:代替|替代|取代|替换|替換)|^[请請](?:删除|刪除|移除|擦除|去除|去掉|抹去|消除)",
    r"^(?:删除|刪除|移除|擦除|去除|去掉|抹去|消除)\s+\S|\S\s+(?:代替|替代|取代)\s+\S",
)
_ENDS = r"[\u3041-\u309f]{0,8}$"  # an order ends with its verb, whose endings are in hiragana
JAPANESE = (
    rf"を.+[にへ](?:置き換|置換|変え|変更|変換|差し替|入れ替|取り替|交換){_ENDS}|を.+と(?:置き換|入れ替|取り替|交換){_ENDS}",
    rf"を(?:消す|消し|消去|削除|除去|取り除){_ENDS}|の代わりに",
)
KOREAN = (
    r"[을를]\s.+로\s*(?:바꾸|바꿔|바꿀|교체|대체|변경|변환|치환)\w{0,5}$",
    r"[을를]\s*(?:지우|지워|삭제|제거)\w{0,5}$|\S\s대신\s\S",
)
ORDER = f"(?i){'|'.join((*ENGLISH, *GERMAN, *FRENCH, *CHINESE, *JAPANESE, *KOREAN))}"
