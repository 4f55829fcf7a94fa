"""The text of lyrics becomes ids of the vocabulary of 330 symbols."""
