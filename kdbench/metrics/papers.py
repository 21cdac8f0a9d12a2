"""The publications that introduced the metrics."""

from kdbench.paper import Paper

BRIER = Paper(
    title="Verification of Forecasts Expressed in Terms of Probability", authors=("Glenn W. Brier",), year=1950,
    venue="Monthly Weather Review", doi="10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2")
GUO = Paper(
    title="On Calibration of Modern Neural Networks",
    authors=("Chuan Guo", "Geoff Pleiss", "Yu Sun", "Kilian Q. Weinberger"), year=2017, venue="ICML",
    arxiv="1706.04599")
STANTON = Paper(
    title="Does Knowledge Distillation Really Work?",
    authors=("Samuel Stanton", "Pavel Izmailov", "Polina Kirichenko", "Alexander A. Alemi", "Andrew Gordon Wilson"),
    year=2021, venue="NeurIPS", arxiv="2106.05945")
SAGAWA = Paper(
    title="Distributionally Robust Neural Networks for Group Shifts: On the Importance of Regularization for "
          "Worst-Case Generalization",
    authors=("Shiori Sagawa", "Pang Wei Koh", "Tatsunori B. Hashimoto", "Percy Liang"), year=2020, venue="ICLR",
    arxiv="1911.08731")
HARDT = Paper(
    title="Equality of Opportunity in Supervised Learning", authors=("Moritz Hardt", "Eric Price", "Nathan Srebro"),
    year=2016, venue="NeurIPS", arxiv="1610.02413")
AGARWAL = Paper(
    title="A Reductions Approach to Fair Classification",
    authors=("Alekh Agarwal", "Alina Beygelzimer", "Miroslav Dudík", "John Langford", "Hanna Wallach"), year=2018,
    venue="ICML", arxiv="1803.02453")
WANG = Paper(
    title="Directional Bias Amplification", authors=("Angelina Wang", "Olga Russakovsky"), year=2021, venue="ICML",
    arxiv="2102.12594")
LIU = Paper(
    title="Large-Scale Long-Tailed Recognition in an Open World",
    authors=("Ziwei Liu", "Zhongqi Miao", "Xiaohang Zhan", "Jiayun Wang", "Boqing Gong", "Stella X. Yu"), year=2019,
    venue="CVPR", arxiv="1904.05160")
MADRY = Paper(
    title="Towards Deep Learning Models Resistant to Adversarial Attacks",
    authors=("Aleksander Madry", "Aleksandar Makelov", "Ludwig Schmidt", "Dimitris Tsipras", "Adrian Vladu"), year=2018,
    venue="ICLR", arxiv="1706.06083")
HENDRYCKS = Paper(
    title="Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    authors=("Dan Hendrycks", "Thomas Dietterich"), year=2019, venue="ICLR", arxiv="1903.12261")
CROCE = Paper(
    title="Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
    authors=("Francesco Croce", "Matthias Hein"), year=2020, venue="ICML", arxiv="2003.01690")
