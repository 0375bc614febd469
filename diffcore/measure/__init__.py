"""What is measured, one module per subject: tables, arrays and tensors in, tables out."""
