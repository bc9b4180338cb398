"""Taggers with a CRF, in the ways in which their transitions are kept and their paths returned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .case import Case, ids
from .taggers import TimeDistributed


class OwnCRF(nn.Module):
    """Scores [to, from], start and stop tags behind the others, on padded batches with a mask."""

    def __init__(self, tags: int):
        super().__init__()
        self.tags = tags
        self.transition = nn.Parameter(torch.randn(tags + 2, tags + 2))

    def viterbi(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, list[list[int]]]:
        start, stop = self.tags, self.tags + 1
        inner = self.transition[: self.tags, : self.tags]
        score = emissions[:, 0] + self.transition[: self.tags, start]
        back = []
        for step in range(1, emissions.size(1)):
            total = score.unsqueeze(1) + inner  # [batch, to, from]
            best, origin = total.max(2)
            score = torch.where(mask[:, step].unsqueeze(1), best + emissions[:, step], score)
            back.append(origin)
        score = score + self.transition[stop, : self.tags]
        best, last = score.max(1)
        paths = []
        for b in range(len(emissions)):
            path = [int(last[b])]
            for origin in reversed(back):
                path.insert(0, int(origin[b, path[0]]))
            paths.append(path)
        return best, paths

    def forward(self, emissions: Tensor, tags: Tensor) -> Tensor:
        raise NotImplementedError


class MaskedCRFTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, 4, bidirectional=True, batch_first=True)
        self.hidden2tag = nn.Linear(8, 5)
        self.crf = OwnCRF(5)

    def forward(self, words: Tensor) -> tuple[Tensor, list[list[int]]]:
        mask = words.ne(0)
        lengths = mask.sum(1)
        x = pack_padded_sequence(
            self.embed(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        y, _ = pad_packed_sequence(self.lstm(x)[0], batch_first=True)
        return self.crf.viterbi(self.hidden2tag(y), mask)


class ConstrainedCRF(nn.Module):
    """As AllenNLP has it: start, end and a matrix of what is allowed; paths with their scores."""

    def __init__(self, tags: int):
        super().__init__()
        self.num_tags = tags
        self.transitions = nn.Parameter(torch.randn(tags, tags))
        allowed = torch.ones(tags + 2, tags + 2)
        allowed[0, 1] = allowed[2, 3] = allowed[tags, 2] = 0.0
        self._constraint_mask = nn.Parameter(allowed, requires_grad=False)
        self.start_transitions = nn.Parameter(torch.randn(tags))
        self.end_transitions = nn.Parameter(torch.randn(tags))

    def viterbi_tags(self, logits: Tensor, mask: Tensor) -> list[tuple[list[int], float]]:
        n = self.num_tags
        only = self._constraint_mask
        transitions = self.transitions * only[:n, :n] + -10000.0 * (1 - only[:n, :n])
        start = self.start_transitions * only[n, :n] + -10000.0 * (1 - only[n, :n])
        end = self.end_transitions * only[:n, n + 1] + -10000.0 * (1 - only[:n, n + 1])
        found = []
        for scores, valid in zip(logits, mask, strict=True):
            steps = scores[valid.bool()]
            best, origins = start + steps[0], []
            for step in steps[1:]:
                arriving, origin = (best.unsqueeze(1) + transitions).max(0)
                best = arriving + step
                origins.append(origin)
            score, tag = (best + end).max(0)
            path = [int(tag)]
            for origin in origins[::-1]:
                path.append(int(origin[path[-1]]))
            found.append((path[::-1], float(score)))
        return found


class ConstrainedTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedder = nn.ModuleDict({"tokens": nn.Embedding(20, 5), "pos": nn.Embedding(6, 2)})
        self.encoder = nn.LSTM(7, 4, bidirectional=True, batch_first=True)
        self.tag_projection = TimeDistributed(nn.Linear(8, 4))
        self.crf = ConstrainedCRF(4)

    def forward(
        self, tokens: dict[str, Tensor], pos: Tensor, tags: Tensor | None = None
    ) -> dict[str, Any]:
        mask = tokens["tokens"] != 0
        x = torch.cat(
            [self.embedder["tokens"](tokens["tokens"]), self.embedder["pos"](pos)], dim=-1
        )
        packed = pack_padded_sequence(x, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        y = pad_packed_sequence(self.encoder(packed)[0], batch_first=True)[0]
        logits = self.tag_projection(y)
        best = self.crf.viterbi_tags(logits, mask)
        return {"logits": logits, "mask": mask, "tags": [path for path, _ in best]}


class TagsInTheMatrix(nn.Module):
    """As in PyTorch's tutorial: no batch, scores [to, from], START and STOP among the tags."""

    def __init__(self, hidden: int = 6, tags: int = 5):
        super().__init__()
        self.tagset_size, self.start, self.stop = tags, tags - 2, tags - 1
        self.word_embeds = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, hidden // 2, bidirectional=True)
        self.hidden2tag = nn.Linear(hidden, tags)
        self.transitions = nn.Parameter(torch.randn(tags, tags))
        self.transitions.data[self.start, :] = -10000
        self.transitions.data[:, self.stop] = -10000

    def _viterbi_decode(self, feats: Tensor) -> tuple[Tensor, list[int]]:
        forward_var = torch.full((1, self.tagset_size), -10000.0)
        forward_var[0][self.start] = 0
        back = []
        for feat in feats:
            best, origin = (forward_var + self.transitions).max(1)
            back.append(origin)
            forward_var = (best + feat).view(1, -1)
        terminal = forward_var + self.transitions[self.stop]
        best_tag = int(terminal.argmax())
        path = [best_tag]
        for origin in reversed(back):
            best_tag = int(origin[best_tag])
            path.append(best_tag)
        assert path.pop() == self.start
        path.reverse()
        return terminal.max(), path

    def forward(self, sentence: Tensor) -> tuple[Tensor, list[int]]:
        out, _ = self.lstm(self.word_embeds(sentence).view(len(sentence), 1, -1))
        return self._viterbi_decode(self.hidden2tag(out.view(len(sentence), -1)))


class TensorPaths(nn.Module):
    """Scores [from, to] with START and STOP last, emissions of these too; paths in a tensor."""

    def __init__(self, tags: int = 4):
        super().__init__()
        scores = torch.randn(tags + 2, tags + 2)
        scores[:, -2] = scores[-1, :] = -10000.0
        self.transitions = nn.Parameter(scores)

    def decode(self, feats: Tensor, mask: Tensor) -> Tensor:
        assert bool(mask.all())
        best, back = feats[:, 0] + self.transitions[-2], []
        for step in range(1, feats.size(1)):
            arriving, origin = (best.unsqueeze(2) + self.transitions).max(1)
            best = arriving + feats[:, step]
            back.append(origin)
        tag = (best + self.transitions[:, -1]).argmax(1, keepdim=True)
        path = [tag]
        for origin in back[::-1]:
            path.append(origin.gather(1, path[-1]))
        return torch.cat(path[::-1], 1)


class TensorPathsTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.hidden2tag = nn.Linear(4, 6)
        self.crf = TensorPaths()

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        return self.crf.decode(self.hidden2tag(self.lstm(self.embed(words))[0]), mask)


class OwnTransitions(nn.Module):
    """The tagger itself has the scores; the path is a stack of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.trans = nn.Parameter(torch.randn(4, 4))
        self.begin = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tags, score = self.viterbi(self.lstm(x)[0].squeeze(0))
        return {"labels": tags, "score": score}

    def viterbi(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        best, back = self.begin + feats[0], []
        for feat in feats[1:]:
            best, origin = (best[:, None] + self.trans).max(0)
            best = best + feat
            back.append(origin)
        score, last = best.max(0)
        path = [last]
        for origin in back[::-1]:
            path.append(origin[path[-1]])
        return torch.stack(path[::-1]), score


CASES = [
    Case("masked_crf", MaskedCRFTagger, lambda: ids(1, 9), {"outputs": ["score", "labels"]}),
    Case("constrained_crf", ConstrainedTagger, lambda: ({"tokens": ids(1, 9)}, ids(1, 9, most=6))),
    Case("tags_in_the_matrix", TagsInTheMatrix, lambda: ids(9), {"outputs": ["score", "labels"]}),
    Case("tensor_paths", TensorPathsTagger, lambda: (ids(1, 9), torch.ones(1, 9).bool())),
    Case("own_transitions", OwnTransitions, lambda: torch.randn(1, 9, 5)),
]
