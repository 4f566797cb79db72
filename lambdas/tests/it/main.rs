mod installation;
mod roles;
mod template;
