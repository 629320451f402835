"""The second model's language: facts and questions in sentences, among English prose."""
