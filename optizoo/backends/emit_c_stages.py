"""Program -> C, where numbers of whole tensors stand between passes over their elements.

A tensor is read in chunks of a fixed size. Each has a partial sum in double precision, of eight lanes; the partial sums
of a tensor are added in order. So no number depends on how many threads there are, and there are no atomic additions.
A tensor of one chunk is updated by one thread, while it lies in its cache; the chunks of others are shared out, pass by
pass.
"""

from optizoo.backends.stages import stages, statements
from optizoo.backends.trace import Operation, Program
from optizoo.core.rule import FULL, NUMBER, WORDS

CHUNK = 1 << 14
"""Elements of a chunk."""

_JOB = """
#include <stdlib.h>
typedef struct {{
    int64_t tensors;
    const int64_t *ends;     /* element count of the first i + 1 tensors */
    void *const *pointers;   /* {columns}, for each the tensors in order */
    const double *scalars;   /* rows of {count} */
    const int32_t *rows;     /* for every tensor its row of scalars; NULL: all have the first */
    int64_t stage;
    int64_t next;            /* the chunk that nobody has taken yet */
    int64_t *chunks;         /* chunk count of the first i + 1 tensors */
    double *partials;        /* {reductions} of every chunk */
    double *numbers;         /* {numbers} of every tensor */
}} job_t;
enum {{ CHUNK = {chunk}, BLOCK = 256, LANES = 8, REDUCTIONS = {reductions}, NUMBERS = {numbers}, STAGES = {stages} }};

static const double *scalars_of(const job_t *job, int64_t i) {{
    return job->scalars + (job->rows ? job->rows[i] * {count} : 0);
}}
"""

_REDUCE = """
INLINE void reduce_elements{stage}(
    const job_t *job, const double *numbers, int64_t i, int64_t from, int64_t to, double *partial, const int near
) {{
    const double *scalars = scalars_of(job, i);
    {constants}
    {lanes}
    for (int64_t at = from; at < to; at += BLOCK) {{
        int64_t count = to - at < BLOCK ? to - at : BLOCK;
        {blocks}
        INDEPENDENT
        for (int64_t j = at; j < at + count; j++) {{
            {statements}
        }}
        for (; count % LANES; count++) {{
            {padding}
        }}
        for (int64_t j = 0; j < count; j += LANES)
            for (int64_t lane = 0; lane < LANES; lane++) {{
                {sums}
            }}
    }}
    {partials}
}}

static void reduce{stage}(
    const job_t *job, const double *numbers, int64_t i, int64_t from, int64_t to, double *partial
) {{
    const double *scalars = scalars_of(job, i);
    if ({near})
        reduce_elements{stage}(job, numbers, i, from, to, partial, 1);
    else
        reduce_elements{stage}(job, numbers, i, from, to, partial, 0);
}}
"""

_UPDATE = """
INLINE void update_elements(
    const job_t *job, const double *numbers, int64_t i, int64_t from, int64_t to, const int near
) {{
    const double *scalars = scalars_of(job, i);
    {constants}
    INDEPENDENT
    for (int64_t j = from; j < to; j++) {{
        {statements}
    }}
}}

static void update(const job_t *job, const double *numbers, int64_t i, int64_t from, int64_t to) {{
    const double *scalars = scalars_of(job, i);
    if ({near})
        update_elements(job, numbers, i, from, to, 1);
    else
        update_elements(job, numbers, i, from, to, 0);
}}

/* From here on numbers of tensors, in double precision. */
#undef FMA
#undef SQRT
#undef ABS
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define SQRT(a) __builtin_sqrt(a)
#define ABS(a) __builtin_fabs(a)
#define real double
"""

_FINISH = """
static void begin{stage}(double *sums) {{
    {beginnings}
}}

static void combine{stage}(double *sums, const double *partial) {{
    {combinations}
}}

static void finish{stage}(const job_t *job, double *numbers, int64_t i, double count, const double *sums) {{
    const double *scalars = scalars_of(job, i);
    const int near = 0;
    (void)scalars, (void)near, (void)count;
    {statements}
}}
"""

_DRIVER = """
static const struct {{
    void (*reduce)(const job_t *, const double *, int64_t, int64_t, int64_t, double *);
    void (*begin)(double *);
    void (*combine)(double *, const double *);
    void (*finish)(const job_t *, double *, int64_t, double, const double *);
}} stages[STAGES] = {{ {stages} }};

static int64_t length(const job_t *job, int64_t i) {{ return job->ends[i] - (i ? job->ends[i - 1] : 0); }}

static void put(const job_t *job, const double *numbers, int64_t i) {{
    (void)job, (void)numbers, (void)i;
    {put}
}}

static void whole(const job_t *job, int64_t i) {{ /* a tensor from its first pass to its last */
    double numbers[NUMBERS];
    int64_t count = length(job, i);
    for (int64_t stage = 0; stage < STAGES; stage++) {{
        double sums[REDUCTIONS], partial[REDUCTIONS];
        stages[stage].begin(sums);
        for (int64_t from = 0; from < count; from += CHUNK) {{
            stages[stage].reduce(job, numbers, i, from, from + CHUNK < count ? from + CHUNK : count, partial);
            stages[stage].combine(sums, partial);
        }}
        stages[stage].finish(job, numbers, i, (double)count, sums);
    }}
    put(job, numbers, i);
    update(job, numbers, i, 0, count);
}}

static void work(void *argument) {{ /* right with any number of threads: each takes chunks while there are some */
    job_t *job = argument;
    for (;;) {{
        int64_t chunk = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED), low = 0, high = job->tensors - 1;
        if (chunk >= job->chunks[job->tensors - 1])
            return;
        while (low < high) {{ /* the first tensor whose chunks end behind this one */
            int64_t middle = (low + high) / 2;
            if (job->chunks[middle] > chunk)
                high = middle;
            else
                low = middle + 1;
        }}
        int64_t first = low ? job->chunks[low - 1] : 0, count = length(job, low);
        int64_t from = (chunk - first) * CHUNK, to = from + CHUNK < count ? from + CHUNK : count;
        if (job->chunks[low] - first == 1) {{
            if (job->stage == 0)
                whole(job, low);
        }} else if (job->stage < STAGES)
            stages[job->stage].reduce(
                job, job->numbers + low * NUMBERS, low, from, to, job->partials + chunk * REDUCTIONS
            );
        else
            update(job, job->numbers + low * NUMBERS, low, from, to);
    }}
}}

static void finish(job_t *job) {{ /* add up the chunks of the tensors that have several */
    for (int64_t i = 0; i < job->tensors; i++) {{
        int64_t first = i ? job->chunks[i - 1] : 0;
        double sums[REDUCTIONS];
        if (job->chunks[i] - first == 1)
            continue;
        stages[job->stage].begin(sums);
        for (int64_t chunk = first; chunk < job->chunks[i]; chunk++)
            stages[job->stage].combine(sums, job->partials + chunk * REDUCTIONS);
        stages[job->stage].finish(job, job->numbers + i * NUMBERS, i, (double)length(job, i), sums);
        if (job->stage == STAGES - 1)
            put(job, job->numbers + i * NUMBERS, i);
    }}
}}

void optizoo_update(
    int64_t tensors, const int64_t *ends, void *const *pointers, const double *scalars, const int32_t *rows,
    int64_t shares, void (*parallel)(void (*)(void *), void *, unsigned, unsigned)
) {{
    job_t job = {{ tensors, ends, pointers, scalars, rows, 0, 0, NULL, NULL, NULL }};
    int64_t chunks = 0, several = 0;
    for (int64_t i = 0; i < tensors; i++) {{
        int64_t count = (length(&job, i) + CHUNK - 1) / CHUNK;
        several |= count > 1;
        chunks += count > 1 ? count : 1;
    }}
    int64_t words = tensors + chunks * REDUCTIONS + tensors * NUMBERS;
    void *memory = shares > 1 ? malloc((size_t)words * 8) : NULL;
    if (!memory) {{ /* one thread needs none, and makes the same sums */
        for (int64_t i = 0; i < tensors; i++)
            whole(&job, i);
        return;
    }}
    job.chunks = memory;
    job.partials = (double *)memory + tensors;
    job.numbers = job.partials + chunks * REDUCTIONS;
    chunks = 0;
    for (int64_t i = 0; i < tensors; i++) {{
        int64_t count = (length(&job, i) + CHUNK - 1) / CHUNK;
        job.chunks[i] = chunks += count > 1 ? count : 1;
    }}
    for (job.stage = 0; job.stage <= (several ? STAGES : 0); job.stage++) {{
        job.next = 0;
        parallel(work, &job, (unsigned)shares, 0);
        if (job.stage < STAGES)
            finish(&job);
    }}
    free(memory);
}}
"""

# Reduction -> what stands at its beginning, how two sums become one, and what becomes of the sum of a tensor.
_REDUCTIONS = {
    "sum": ("0", "{0} + {1}", "{0}"),
    "mean": ("0", "{0} + {1}", "{0} / count"),
    "norm": ("0", "{0} + {1}", "__builtin_sqrt({0})"),
    "amax": ("-INFINITY", "({0} > {1} || {0} != {0} ? {0} : {1})", "{0}"),
}


class Texts:
    """The parts of the C text of a program with reductions.

    Args:
        program: The program.
        loads: For every input the expression of its element ``j``.
        stores: For every output with one number for every element, the statement that writes element ``j``.
        puts: For every output that is a number, its place among the columns and its value.
        constants: Statements that every pass begins with.
        weights: The condition under which ``lerp`` has no branch.
        columns: Names of the columns.
        width: Scalars of a row.
    """

    def __init__(
        self,
        program: Program,
        *,
        loads: list[str],
        stores: dict[int, list[str]],
        puts: list[tuple[int, int]],
        constants: list[str],
        weights: str,
        columns: list[str],
        width: int,
    ):
        self._program = program
        self._loads, self._stores, self._puts = loads, stores, puts
        self._constants, self._weights, self._columns, self._width = constants, weights, columns, width
        found = stages(program)
        self._numbers = [value for stage in found for value in (*stage.reductions, *stage.numbers)]
        self._widest = max(len(stage.reductions) for stage in found)

    def text(self) -> str:
        """Return the text behind the head."""
        found = stages(self._program)
        parts = [
            _JOB.format(
                columns=", ".join(self._columns),
                count=self._width,
                chunk=CHUNK,
                reductions=self._widest,
                numbers=len(self._numbers),
                stages=len(found),
            )
        ]
        parts += [self._reduce(index, stage.reductions) for index, stage in enumerate(found)]
        wanted = [*self._stores]
        lines = [*self._elements(wanted), *(line for value in wanted for line in self._stores[value])]
        parts.append(
            _UPDATE.format(
                constants="\n    ".join([*self._constants, *self._known(wanted)]),
                statements="\n        ".join(lines),
                near=self._weights,
            )
        )
        parts += [self._finish(index, *stage) for index, stage in enumerate(found)]
        parts.append(self._driver(len(found)))
        return "".join(parts)

    def _operation(self, value: int) -> Operation:
        return self._program.operations[value - len(self._program.inputs)]

    def _elements(self, wanted: list[int]) -> list[str]:
        """Return the statements that compute the wanted values of element ``j``."""
        needed = statements(self._program, wanted)
        read = {operand for value in needed for operand in self._operation(value).operands} | {*wanted}
        inputs = [value for value in range(len(self._program.inputs)) if value in read]
        lines = [f"const real v{value} = {self._loads[value]}; /* {self._program.inputs[value]} */" for value in inputs]
        return lines + [f"const real v{value} = {expression(self._operation(value))};" for value in needed]

    def _known(self, wanted: list[int]) -> list[str]:
        """Return the statements that read the numbers which the wanted values need."""
        rank, needed = self._program.rank, statements(self._program, wanted)
        read = {operand for value in needed for operand in self._operation(value).operands if rank[operand] == NUMBER}
        return [f"const real v{value} = (real)numbers[{self._numbers.index(value)}];" for value in sorted(read)]

    def _reduce(self, stage: int, reductions: tuple[int, ...]) -> str:
        reduced = [self._operation(value) for value in reductions]
        kinds = [_REDUCTIONS[operation.word] for operation in reduced]
        wanted = [operation.operands[0] for operation in reduced]
        for operand in wanted:
            assert self._program.rank[operand] == FULL
        places = range(len(reduced))
        elements = [WORDS[operation.word].c.format(f"block{k}[j + lane]") for k, operation in enumerate(reduced)]
        sums = [f"lanes{k}[lane] = {kinds[k][1].format(f'lanes{k}[lane]', elements[k])};" for k in places]
        partials = [
            f"partial[{k}] = lanes{k}[0];\n    for (int64_t lane = 1; lane < LANES; lane++)\n"
            f"        partial[{k}] = {kinds[k][1].format(f'partial[{k}]', f'lanes{k}[lane]')};"
            for k in places
        ]
        return _REDUCE.format(
            stage=stage,
            constants="\n    ".join([*self._constants, *self._known(wanted)]),
            lanes="\n    ".join(f"double lanes{k}[LANES] = {{ {', '.join([kinds[k][0]] * 8)} }};" for k in places),
            blocks="\n        ".join(f"real block{k}[BLOCK];" for k in places),
            statements="\n            ".join(
                [*self._elements(wanted), *(f"block{k}[j - at] = v{wanted[k]};" for k in places)]
            ),
            padding="\n            ".join(f"block{k}[count] = (real){kinds[k][0]};" for k in places),
            sums="\n                ".join(sums),
            partials="\n    ".join(partials),
            near=self._weights,
        )

    def _finish(self, stage: int, reductions: tuple[int, ...], numbers: tuple[int, ...]) -> str:
        lines = []
        for k, value in enumerate(reductions):
            ending = _REDUCTIONS[self._operation(value).word][2].format(f"sums[{k}]")
            lines.append(f"numbers[{self._numbers.index(value)}] = {ending};")
        for value in numbers:
            operation = self._operation(value)
            operands = [f"numbers[{self._numbers.index(operand)}]" for operand in operation.operands]
            scalar = f"scalars[{operation.scalar}]"
            lines.append(
                f"numbers[{self._numbers.index(value)}] = {WORDS[operation.word].c.format(*operands, s=scalar)};"
            )
        kinds = [_REDUCTIONS[self._operation(value).word] for value in reductions]
        return _FINISH.format(
            stage=stage,
            beginnings="\n    ".join(f"sums[{k}] = {kind[0]};" for k, kind in enumerate(kinds)),
            combinations="\n    ".join(
                f"sums[{k}] = {kind[1].format(f'sums[{k}]', f'partial[{k}]')};" for k, kind in enumerate(kinds)
            ),
            statements="\n    ".join(lines),
        )

    def _driver(self, count: int) -> str:
        functions = ("reduce", "begin", "combine", "finish")
        put = [
            f"*(double *)job->pointers[{column} * job->tensors + i] = numbers[{self._numbers.index(value)}];"
            for column, value in self._puts
        ]
        return _DRIVER.format(
            stages=", ".join(f"{{{', '.join(f'{name}{stage}' for name in functions)}}}" for stage in range(count)),
            put="\n    ".join(put),
        )


def expression(operation: Operation) -> str:
    """Return the C expression of a word of elements."""
    operands = [f"v{operand}" for operand in operation.operands]
    return WORDS[operation.word].c.format(*operands, s=f"s{operation.scalar}")
