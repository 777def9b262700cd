"""Which adapter lists the clips of which dataset?

`dfew` reads DFEW and every dataset in its layout, `synthetic` among them; `ferv39k` reads FERV39k;
`own` reads a CSV file that anyone can write.
Adding a dataset is one module with `read_clips(data) -> Sequence[Clip]` and one line in
pipeline.index.
"""
