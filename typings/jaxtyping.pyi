# For the type checker alone: the shape strings of jaxtyping are notes, not names to look up.
from typing import Annotated as Bool
from typing import Annotated as Float
from typing import Annotated as Float32
from typing import Annotated as Float64
from typing import Annotated as Inexact
from typing import Annotated as Int
from typing import Annotated as Int32
from typing import Annotated as Int64
from typing import Annotated as Integer
from typing import Annotated as Num
from typing import Annotated as Real
from typing import Annotated as Shaped
from typing import Annotated as UInt8
from typing import Any

__all__ = [
    "Bool",
    "Float",
    "Float32",
    "Float64",
    "Inexact",
    "Int",
    "Int32",
    "Int64",
    "Integer",
    "Num",
    "Real",
    "Shaped",
    "UInt8",
    "jaxtyped",
]

def jaxtyped(*, typechecker: Any) -> Any: ...
