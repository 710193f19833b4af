"""Program -> C: one function that updates many tensors, split evenly over threads.

The text needs neither torch's headers nor an OpenMP compiler: it gets the pointers of the tensors, and the
``GOMP_parallel`` of the OpenMP runtime that torch has loaded, as arguments.

>>> from optizoo import rules
>>> from optizoo.backends.trace import trace
>>> program, _ = trace(rules.sgd, {}, lr=0.1, weight_decay=0)
>>> text = source(program, "float32", "float32")
>>> print(text[text.index("for (int64_t j") : text.index("static void update(")])
for (int64_t j = from; j < to; j++) {
    const real v0 = p0[j]; /* param */
    const real v1 = (real)p1[j]; /* grad */
    const real v2 = FMA(v1, s0, v0);
    p0[j] = v2;
    }
}
"""

from optizoo.backends.emit_c_stages import Texts, expression
from optizoo.backends.trace import Program
from optizoo.core.master import FUNCTIONS
from optizoo.core.rule import NUMBER

# Type of a tensor -> the C type of an element, the type in which it is computed, and how one becomes the other.
# In 16 bits every operand is widened when it is read and the result rounded once, when it is written.
TYPES: dict[str, tuple[str, str, str, str]] = {
    "float32": ("float", "float", "{}", "{}"),
    "float64": ("double", "double", "{}", "{}"),
    "bfloat16": ("uint16_t", "float", "from_bfloat16({})", "to_bfloat16({})"),
    "float16": ("uint16_t", "float", "from_float16({})", "to_float16({})"),
}

_HEAD = """\
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef {real} real;
typedef {param} param_t;
typedef {grad} grad_t;
typedef {state} state_t;

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA(a, b, c) __builtin_fma{f}(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define SQRT(a) __builtin_sqrt{f}(a)
#define ABS(a) __builtin_fabs{f}(a)
#define MAXIMUM(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))
/* From the nearer end, so that weight 1 gives the end itself; b + (w - 1)(b - a) is a + w(b - a). */
#define NEAR(w) ((w) < (real)0.5 && (w) > (real)-0.5)
#define LERP(a, b, w) (near || NEAR(w) ? FMA(w, (b) - (a), a) : FMA((w) - 1, (b) - (a), b))

#define INLINE static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety) interleave(enable)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
"""

_BITS = """
INLINE float as_float(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
INLINE uint32_t as_bits(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
/* Without a branch, which would keep the compiler from using vectors. */
INLINE uint32_t pick(int condition, uint32_t yes, uint32_t no) {
    uint32_t mask = 0 - (uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}
"""

_BFLOAT16 = """
INLINE float from_bfloat16(uint16_t half) { return as_float((uint32_t)half << 16); }
INLINE uint16_t to_bfloat16(float value) { /* to nearest, ties to even */
    uint32_t bits = as_bits(value), rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)pick((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded);
}
"""

_FLOAT16 = """
INLINE float from_float16(uint16_t half) {
    uint32_t magnitude = half & 0x7FFF, sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t normal = (magnitude << 13) + ((uint32_t)112 << 23); /* the bias moves from 15 to 127 */
    uint32_t subnormal = as_bits((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t special = (magnitude << 13) | 0x7F800000; /* inf and NaN */
    return as_float(pick(magnitude >= 0x7C00, special, pick(magnitude < 0x0400, subnormal, normal)) | sign);
}
INLINE uint16_t to_float16(float value) { /* to nearest, ties to even */
    uint32_t bits = as_bits(value), magnitude = bits & 0x7FFFFFFF, sign = (bits >> 16) & 0x8000;
    uint32_t normal = (magnitude - ((uint32_t)112 << 23) + 0x0FFF + ((magnitude >> 13) & 1)) >> 13;
    uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3F000000; /* the addition rounds at 2^-24 */
    uint32_t finite = pick(magnitude < 0x38800000, subnormal, normal);
    uint32_t rounded = pick(magnitude >= 0x477FF000, 0x7C00, finite); /* 65520 and above */
    return (uint16_t)(pick(magnitude > 0x7F800000, 0x7E00, rounded) | sign);
}
"""

_JOB = """
typedef struct {{
    int64_t tensors;
    const int64_t *ends;     /* element count of the first i + 1 tensors */
    void *const *pointers;   /* {columns}, for each the tensors in order */
    const double *scalars;   /* rows of {count} */
    const int32_t *rows;     /* for every tensor its row of scalars; NULL: all have the first */
    int64_t shares;
    int64_t next;            /* the share that nobody has taken yet */
}} job_t;
"""

_UPDATE = """
INLINE void update_elements(
    const job_t *job, const double *scalars, int64_t i, int64_t from, int64_t to, const int near
) {{
    {constants}
    INDEPENDENT
    for (int64_t j = from; j < to; j++) {{
        {statements}
    }}
}}

static void update(const job_t *job, int64_t i, int64_t from, int64_t to) {{
    const double *scalars = job->scalars + (job->rows ? job->rows[i] * {count} : 0);
    if ({near}) /* known when the first loop is compiled, which keeps it free of branches and so in vectors */
        update_elements(job, scalars, i, from, to, 1);
    else
        update_elements(job, scalars, i, from, to, 0);
}}
"""

_DRIVER = """
static void update_share(const job_t *job, int64_t share) {
    int64_t total = job->ends[job->tensors - 1];
    /* A multiple of 64 elements, so that two threads never write to one cache line of an aligned tensor. */
    int64_t size = ((total + job->shares - 1) / job->shares + 63) / 64 * 64;
    int64_t from = share * size, to = from + size < total ? from + size : total;
    if (from >= to)
        return;
    int64_t low = 0, high = job->tensors - 1; /* the first tensor that ends behind `from` */
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (job->ends[middle] > from)
            high = middle;
        else
            low = middle + 1;
    }
    for (int64_t i = low; i < job->tensors && from < to; i++) {
        int64_t start = i ? job->ends[i - 1] : 0, stop = job->ends[i] < to ? job->ends[i] : to;
        update(job, i, from - start, stop - start);
        from = stop;
    }
}

static void work(void *argument) { /* right with any number of threads: each takes shares while there are some */
    job_t *job = argument;
    for (;;) {
        int64_t share = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (share >= job->shares)
            return;
        update_share(job, share);
    }
}

void optizoo_update(
    int64_t tensors, const int64_t *ends, void *const *pointers, const double *scalars, const int32_t *rows,
    int64_t shares, void (*parallel)(void (*)(void *), void *, unsigned, unsigned)
) {
    job_t job = {tensors, ends, pointers, scalars, rows, shares, 0};
    if (shares > 1)
        parallel(work, &job, (unsigned)shares, 0);
    else
        work(&job);
}
"""


_HALVES = """
INLINE uint32_t upper(uint32_t bits) { return (bits + 0x8000) & 0xFFFF0000; } /* to nearest, a tie away from zero */
INLINE float joined(float top, float rest) { return as_float(as_bits(top) + (uint32_t)(int32_t)rest); }
INLINE float top(float value) {
    uint32_t bits = as_bits(value);
    return as_float(pick((bits & 0x7FFFFFFF) > 0x7F800000, bits, upper(bits)));
}
INLINE float rest(float value) {
    uint32_t bits = as_bits(value);
    return (float)(int32_t)pick((bits & 0x7FFFFFFF) > 0x7F800000, 0, bits - upper(bits));
}
"""


def source(program: Program, param: str, grad: str, state: str | None = None, *, unscale: bool = False) -> str:
    """Return the C text of a program.

    The function is ``optizoo_update(tensors, ends, pointers, scalars, rows, shares, parallel)``. ``pointers`` has a
    column for every input of the program and then one for every output of :func:`fresh_outputs`. ``scalars`` has rows
    of as many numbers as :func:`width` says, and ``rows`` for every tensor the number of its row.

    Args:
        program: What to compute.
        param: Type of the parameters, a key of :data:`TYPES`.
        grad: Type of the gradients.
        state: Type of the states, if it is another; but a state ``param_rest`` has 16 bits of whole numbers.
        unscale: Divide the gradient by one more scalar, the last, when it is read.
    """
    c_param, real, *own = TYPES[param]
    c_grad, _, *of_grads = TYPES[grad]
    c_state, _, *of_states = TYPES[state or param]
    forms = {"param": ("param_t", *own), "grad": ("grad_t", *of_grads), "param_rest": ("int16_t", "{}", "(int16_t){}")}
    count, fresh = len(program.inputs), fresh_outputs(program)
    columns = [*program.inputs, *(f"new {name}" for name in fresh)]
    scalars = width(program)

    constants = [f"const real s{index} = (real)scalars[{index}];" for index in range(scalars)]
    if unscale:
        constants.append(f"const real scale = (real)scalars[{scalars}];")
    for index, name in enumerate(columns):
        kind = f"{'const ' if name == 'grad' else ''}{forms.get(name, ('state_t',))[0]} *"
        constants.append(f"{kind}p{index} = ({kind})job->pointers[{index} * job->tensors + i];")

    loads = []
    for index, name in enumerate(program.inputs):
        _, read, _ = forms.get(name, ("state_t", *of_states))
        value = read.format(f"p{index}[j]")
        if name not in ("param", *([] if state else program.inputs[2:])):
            value = f"(real){value}"
        loads.append(f"{value} / scale" if name == "grad" and unscale else value)
    stores: dict[int, list[str]] = {}
    puts = []
    for name, value in program.outputs:
        column = columns.index(name if name in program.inputs else f"new {name}")
        if program.rank[value] == NUMBER:
            puts.append((column, value))
        elif name not in program.inputs or value != column:  # else it stays as it is
            write = forms.get(name, ("state_t", *of_states))[2]
            stores.setdefault(value, []).append(f"p{column}[j] = {write.format(f'v{value}')};")

    weights = [f"NEAR((real)scalars[{each.scalar}])" for each in program.operations if each.word == "lerp"]
    near = " && ".join(weights) or "1"
    types = {param, grad, state or param}
    halves = any(operation.word in FUNCTIONS for operation in program.operations)
    head = [
        "/* " + "\n   ".join(str(program).splitlines()) + " */\n",
        _HEAD.format(real=real, param=c_param, grad=c_grad, state=c_state, f="f" if real == "float" else ""),
        _BITS if types & {"bfloat16", "float16"} or halves else "",
        _BFLOAT16 if "bfloat16" in types else "",
        _FLOAT16 if "float16" in types else "",
        _HALVES if halves else "",
    ]
    total_width = width(program, unscale=unscale)
    if not program.elementwise:
        texts = Texts(
            program, loads=loads, stores=stores, puts=puts, constants=constants, weights=near, columns=columns,
            width=total_width,
        )  # fmt: skip
        return "".join([*head, texts.text()])
    statements = [f"const real v{index} = {load}; /* {program.inputs[index]} */" for index, load in enumerate(loads)]
    for index, operation in enumerate(program.operations, start=count):
        statements.append(f"const real v{index} = {expression(operation)};")
    statements += [store for each in stores.values() for store in each]
    return "".join(
        [
            *head,
            _JOB.format(columns=", ".join(columns), count=total_width),
            _UPDATE.format(
                constants="\n    ".join(constants),
                statements="\n        ".join(statements),
                near=near,
                count=total_width,
            ),
            _DRIVER,
        ]
    )


# Type of a tensor -> the integer of its width, and the bits of its exponent: all of them are set in inf and NaN.
_EXPONENTS = {
    "float32": ("uint32_t", "0x7F800000u"),
    "float64": ("uint64_t", "0x7FF0000000000000u"),
    "bfloat16": ("uint16_t", "0x7F80u"),
    "float16": ("uint16_t", "0x7C00u"),
}

_NONFINITE = """
static void update(const job_t *job, int64_t i, int64_t from, int64_t to) {{
    const {word} *p = job->pointers[i];
    {word} found = 0;
    for (int64_t j = from; j < to; j++)
        found |= (p[j] & {exponent}) == {exponent};
    if (found)
        ((volatile unsigned char *)job->pointers[job->tensors])[i] = 1;
}}
"""


def nonfinite_source(dtype: str) -> str:
    """Return the C text of a function like that of :func:`source`, which only looks for values that are not finite.

    ``pointers`` has the tensors, and behind them an array of bytes: that of a tensor becomes 1 where it has one.
    """
    word, exponent = _EXPONENTS[dtype]
    job = _JOB.format(columns="one column, and the array of bytes", count=0)
    return f"#include <stdint.h>\n{job}{_NONFINITE.format(word=word, exponent=exponent)}{_DRIVER}"


def width(program: Program, *, unscale: bool = False) -> int:
    """Return how many scalars a kernel of :func:`source` takes for each tensor."""
    return sum(operation.scalar is not None for operation in program.operations) + unscale


def fresh_outputs(program: Program) -> tuple[str, ...]:
    """Return the states that the program makes: outputs that are no inputs."""
    return tuple(name for name, _ in program.outputs if name not in program.inputs)
