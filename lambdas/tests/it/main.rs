mod calls;
mod installation;
mod roles;
mod template;
mod whole;
