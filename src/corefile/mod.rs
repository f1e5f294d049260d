//! The Corefile: text in, spanned typed tree out, or every mistake at once. Pure but for the files that `import` names,
//! which come through [`Files`].

