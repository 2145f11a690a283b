"""The extension table: kernel family x instruction set x number type. Metadata is in pyproject.toml.

Environment variables that change the build (set to 1):
    FASTCONV_BUILD_DEBUG      bounds checks and assertions on, no optimisation, debug symbols
    FASTCONV_BUILD_ANNOTATE   Cython's annotated sources, as HTML beside the C files in build/cython
    FASTCONV_BUILD_TRACE      line tracing, so that profilers see inside the kernels
    FASTCONV_BUILD_NO_OPENMP  one thread
    FASTCONV_BUILD_SANITIZE   not 1, but what to check at run time: address,undefined or thread (.ci/sanitize)
    FASTCONV_BUILD_PURE       no compiled kernels at all; the package then runs the pure set
and, while working on the kernels,
    FASTCONV_BUILD_LEVELS     only these instruction-set levels, comma-separated (say x86-64-v3)
"""

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, LinkError

FAMILIES = (
    "conv", "conv_weights", "winograd", "winograd_weights", "pool", "pool_gradient", "norm", "activation",
    "probe",
)
REALS = ("float32", "float64")
# The levels of src/fastconv/_kernels/__init__.py. Every level is compiled, whatever this
# machine has; _cpu.pyx, compiled for the baseline, tells at import which can run.
LEVELS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    LEVELS["x86_64_v3"] = ["-march=x86-64-v3"]
    LEVELS["x86_64_v4"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
if os.environ.get("FASTCONV_BUILD_LEVELS"):
    wanted = os.environ["FASTCONV_BUILD_LEVELS"].replace("-", "_").split(",")
    LEVELS = {level: LEVELS[level] for level in wanted}


def switch(name):
    return os.environ.get(f"FASTCONV_BUILD_{name}", "0") not in ("", "0")


DEBUG, ANNOTATE, TRACE = switch("DEBUG"), switch("ANNOTATE"), switch("TRACE")
# Files are no older because a switch is another: what was built with other ones is built again.
SANITIZE = os.environ.get("FASTCONV_BUILD_SANITIZE", "")
SWITCHES = " ".join(filter(switch, ("DEBUG", "ANNOTATE", "TRACE", "NO_OPENMP"))) + SANITIZE
LAST_SWITCHES = Path("build/switches")
CHANGED = (LAST_SWITCHES.read_text() if LAST_SWITCHES.exists() else "") != SWITCHES
# Never -ffast-math: it would flush subnormals in the whole process.
FLAGS = ["-O3", "-g0", "-fno-trapping-math", "-fno-math-errno", "-ffp-contract=fast"]
# A loop of a few instructions that lies across two cache lines took up to 1.3 times as long: copying rows
# of strided images. Without this, any change elsewhere may move one there.
FLAGS += ["-falign-loops=64"]
# GCC's alone. Rows of images are mostly short: a loop in place costs less than a call of memcpy or memset.
IN_PLACE = ["-fno-tree-loop-distribute-patterns"]
if DEBUG:
    FLAGS, IN_PLACE = ["-O0", "-g", "-UNDEBUG"], []
if SANITIZE:
    # Optimised a little, for the speed of the tests; the first finding ends the process.
    FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    FLAGS += ["-UNDEBUG"] if DEBUG else []
    IN_PLACE = []
MACROS = [("CYTHON_TRACE_NOGIL", "1")] if TRACE else []
if not (DEBUG or TRACE):
    # `cdef inline` must mean it: the tiles of tile.pxd are fast only with their sizes constant, and
    # left to its own heuristics GCC 12 ran the 4 x 3 tile six times slower.
    MACROS.append(("CYTHON_INLINE", "inline __attribute__((always_inline))"))


def extension_table():
    table = {"cpu": [Extension("fastconv._kernels._cpu", ["pyx/_cpu.pyx"], include_dirs=["pyx"])]}
    for level, level_flags in LEVELS.items():
        for real in REALS:
            table[f"{level}_{real}"] = [
                Extension(
                    f"fastconv._kernels.{family}_{level}_{real}",
                    [f"pyx/{family}.pyx"],
                    include_dirs=["pyx"],
                    define_macros=[(f"FASTCONV_{real.upper()}", None), *MACROS],
                    extra_compile_args=[*FLAGS, *level_flags],
                    extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
                )
                for family in FAMILIES
            ]
    return table


def to_c(name, extensions):
    """Cython's part, into a folder of that name."""
    translated = cythonize(
        # Names and sources alone: cythonize gives extensions of one source the settings of the first.
        [Extension(extension.name, extension.sources) for extension in extensions],
        build_dir=f"build/cython/{name}",
        include_path=["pyx"],
        annotate=ANNOTATE,
        force=CHANGED or None,
        nthreads=os.cpu_count(),
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": not DEBUG,
            "linetrace": TRACE,
            "freethreading_compatible": True,
        },
    )
    for extension, in_c in zip(extensions, translated):
        extension.sources, extension.depends = in_c.sources, in_c.depends


class BuildKernels(build_ext):
    """Compiles in parallel, and with OpenMP where the compiler has it."""

    def build_extensions(self):
        for name, extensions in TABLE.items():
            to_c(name, extensions)
        self.parallel = self.parallel or os.cpu_count()
        self.force = self.force or CHANGED
        in_place = IN_PLACE if self.compiler_has(IN_PLACE) else []
        openmp = [] if switch("NO_OPENMP") else ["-fopenmp"]
        if not self.compiler_has(openmp):
            self.warn("the compiler has no OpenMP: fastconv is built for one thread")
            openmp = []
        for extension in self.extensions:
            extension.extra_compile_args += in_place + openmp
            extension.extra_link_args += openmp
        super().build_extensions()
        LAST_SWITCHES.parent.mkdir(exist_ok=True)
        LAST_SWITCHES.write_text(SWITCHES)

    def compiler_has(self, flags):
        probe = Path(self.build_temp, "flag_probe.c")
        probe.parent.mkdir(parents=True, exist_ok=True)
        # A compiler can know -fopenmp and still lack its header or its library.
        probe.write_text(
            "#ifdef _OPENMP\n#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
            "#else\nint main(void) { return 0; }\n#endif\n"
        )
        try:
            objects = self.compiler.compile([str(probe)], self.build_temp, extra_postargs=flags)
            self.compiler.link_executable(objects, str(probe.with_suffix("")), extra_postargs=flags)
        except (CompileError, LinkError):
            return False
        return True


class BuildPython(build_py):
    """Notes in the package that no kernels were wanted; without the note, missing ones are an error."""

    def run(self):
        super().run()
        if switch("PURE"):
            root = self.get_package_dir("fastconv") if self.editable_mode else f"{self.build_lib}/fastconv"
            Path(root, "_pure_build.py").write_text('"""This copy was built without kernels."""\n')


TABLE = {} if switch("PURE") else extension_table()

if __name__ == "__main__":  # Cython's processes may import this file
    setup(
        ext_modules=[extension for extensions in TABLE.values() for extension in extensions],
        cmdclass={"build_ext": BuildKernels, "build_py": BuildPython},
    )
