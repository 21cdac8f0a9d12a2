from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy


class TAKD(Method):
    """Distillation from an assistant: a network of a size between teacher and student learns from the teacher, and the
    student from it. The loss is that of kd; what differs is who teaches.

    loss = (1 - alpha) CE(student, labels) + alpha temperature^2 KL(assistant || student)

    The assistant is the pair's, and has a run of its own before this one, by the suite's `assistant_method` from the
    pair's teacher, on the recipe of the student, as in the paper, where all stages are trained alike. It is shared by
    all seeds, and lies outside the budget and the cost of this run ("assistant"). The paper also chains several
    assistants; here there is one. It searches alpha and the temperature for every student (the authors' code, in
    search_space.json, temperatures of 1 to 20) and names no values: taken are those of kd, so that only the teacher
    differs. The code's KL is averaged over the classes too; here it is their sum.
    """

    name, family = "takd", "logit"
    paper = Paper(
        title="Improved Knowledge Distillation via Teacher Assistant",
        authors=("Seyed Iman Mirzadeh", "Mehrdad Farajtabar", "Ang Li", "Nir Levine", "Akihiro Matsukawa",
                 "Hassan Ghasemzadeh"),
        year=2020, venue="AAAI", arxiv="1902.03393",
    )
    ranges = {"temperature": (1.0, 20.0), "alpha": (0.0, 1.0)}
    unlabelled = "alone"
    learns_from = "assistant"
    conditions = ("assistant",)

    def __init__(self, ctx, *, temperature: float = 4.0, alpha: float = 0.9):
        super().__init__(ctx)
        self.temperature, self.alpha = temperature, alpha

    def losses(self, batch, student, teacher):
        return {
            "ce": (1 - self.alpha) * labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, teacher.logits, self.temperature),
        }
