"""A differential fuzzer: random problems on compiled and on pure kernels, against plain formulas.

    cd tests && python -m fuzz --cases 10000 --seed 1

`problems` draws problems, each a line of text that repeats it; `arrays` fills their arrays; `references`
has the formulas with bounds on the error, `operations` what is called; `differential` compares.
`boundary` throws objects that are no proper arguments at every function.
"""
