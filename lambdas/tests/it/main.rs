mod calls;
mod installation;
mod roles;
mod sexton;
mod signed;
mod template;
mod whole;
