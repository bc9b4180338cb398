"""The upper bounds of histograms' buckets."""

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
SEQUENCES = tuple(float(2**n) for n in range(11))  # 1 to 1,024
TOKENS = tuple(float(2**n) for n in range(18))  # 1 to 131,072
